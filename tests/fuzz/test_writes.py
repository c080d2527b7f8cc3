"""The messages of one upload, in any order and with anything in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st

from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from tests.conformance.blobs import digest_of
from tests.fuzz.cas_under_fire import INVALID, OK, RESOURCE_EXHAUSTED, CasUnderFire, upload_name
from tests.fuzz.effort import effort

_MIB = 2**20
#: Of the blob: small ones, and those that go to a file as they come.
SIZES = [100, 1_000, _MIB, _MIB + 1, 2 * _MIB + 3]


class Sent(NamedTuple):
    """One message, by how it differs from what a careful client sends next."""

    #: How many bytes of the blob it carries.
    size: int
    #: Added to the offset at which the upload is.
    slip: int = 0
    name: str = "none"
    finish: bool = False
    #: Whether its bytes are others than the blob's.
    wrong: bool = False


sizes = st.sampled_from([0, 1, 50, 100, 500, 1_000, _MIB // 2, _MIB, _MIB + 1, 2 * _MIB + 3])
sound = st.builds(Sent, sizes, name=st.sampled_from(["none", "same"]))
odd = st.builds(
    Sent,
    sizes,
    st.sampled_from([0, 0, 0, 1, -1, 2**62, -(2**62)]),
    st.sampled_from(["none", "none", "same", "other"]),
    st.booleans(),
    st.sampled_from([False, False, False, True]),
)
messages = st.lists(st.one_of(sound, odd), min_size=1, max_size=6)


def requests(name: str, blob: bytes, sent: Sequence[Sent]) -> Iterator[bs.WriteRequest]:
    at = 0
    for index, one in enumerate(sent):
        data = blob[at : at + one.size]
        # Beyond the blob's end nothing of it is left: then something else comes.
        data += b"?" * (one.size - len(data))
        if one.wrong:
            data = b"!" * one.size
        names = {"none": "", "same": name, "other": f"{name}/0"} if index else {}
        offset = max(-(2**63), min(2**63 - 1, at + one.slip))
        yield bs.WriteRequest(
            resource_name=names.get(one.name, name), write_offset=offset, data=data, finish_write=one.finish
        )
        at += one.size


class Expected(NamedTuple):
    """What must come of an upload."""

    complete: bool = False
    #: What is kept of one that is sound so far, and was not finished.
    committed: int | None = None


def expected(blob: bytes, sent: Sequence[Sent]) -> Expected:
    """Return what the protocol says; neither: the upload is refused."""
    at, is_wrong = 0, False
    for index, one in enumerate(sent):
        if one.slip or (one.name == "other" and index):
            return Expected()
        at += one.size
        is_wrong = is_wrong or (one.wrong and one.size > 0)
        if at > len(blob):
            return Expected()
        if one.finish:
            is_last = index == len(sent) - 1
            return Expected(complete=is_last and at == len(blob) and not is_wrong)
    return Expected(committed=at)


@effort()
@given(size=st.sampled_from(SIZES), sent=messages)
@example(size=100, sent=[Sent(100, finish=True), Sent(0, name="same", finish=True)])
@example(size=_MIB + 1, sent=[Sent(_MIB), Sent(1), Sent(0, finish=True)])
def test_an_upload_becomes_a_blob_or_stays_one_to_go_on_with_or_is_refused(
    each_cas: CasUnderFire, size: int, sent: Sequence[Sent]
) -> None:
    blob = (each_cas.fresh(b"") + bytes(size))[:size]
    digest = digest_of(blob)
    name = upload_name(digest)
    answer = each_cas.write(list(requests(name, blob, sent)))
    wanted = expected(blob, sent)
    if wanted.complete:
        assert answer.message.committed_size == len(blob)
        assert each_cas.read_blob(digest) == blob
        assert each_cas.committed(name) == (len(blob), True)
        return
    assert each_cas.is_missing(digest)
    if wanted.committed is None:
        assert answer.code is INVALID
        assert not each_cas.committed(name)[1]
    else:
        assert (answer.code, answer.message.committed_size) == (OK, wanted.committed)
        assert each_cas.committed(name) == (wanted.committed, False)


@effort(share=0.5)
@given(data=st.lists(st.binary(max_size=100), max_size=5))
def test_bytes_that_are_no_messages_are_refused(each_cas: CasUnderFire, data: list[bytes]) -> None:
    each_cas.write(data)


@effort(share=0.5)
@given(
    size=st.one_of(st.sampled_from([2**62, 2**63 - 1, 2**40]), st.integers(_MIB * 1024, 2**63 - 1)),
    finish=st.booleans(),
)
def test_a_size_that_no_disk_has_takes_nothing(each_cas: CasUnderFire, size: int, finish: bool) -> None:
    digest = digest_of(each_cas.fresh(b""))
    digest.size_bytes = size
    name = upload_name(digest)
    answer = each_cas.write([bs.WriteRequest(resource_name=name, data=b"x" * 1_000, finish_write=finish)])
    assert answer.code in (INVALID if finish else OK, RESOURCE_EXHAUSTED)


def test_uploads_that_are_refused_leave_nothing_in_memory(each_cas: CasUnderFire) -> None:
    before = each_cas.anonymous_bytes()
    for _ in range(60):
        blob = each_cas.fresh(bytes(3 * _MIB))
        name = upload_name(digest_of(blob))
        wrong = [Sent(_MIB), Sent(_MIB, slip=1), Sent(_MIB)]
        assert each_cas.write(list(requests(name, blob, wrong))).code is INVALID
        assert each_cas.write(list(requests(name, blob, [Sent(_MIB, wrong=True), Sent(5 * _MIB)]))).code is INVALID
    assert each_cas.anonymous_bytes() - before < 64 * _MIB
