"""Batches of digests, sound and unsound ones mixed."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_rpc as rpc
from tests.conformance.blobs import digest_of
from tests.conformance.compressors import COMPRESSORS, compress, decompress
from tests.fuzz.cas_under_fire import INVALID, NOT_FOUND, OK, CasUnderFire
from tests.fuzz.effort import effort

HEXADECIMAL = "0123456789abcdef"
LENGTHS = {1: 64, 2: 40, 3: 32, 5: 96, 6: 128, 9: 64}
#: What a request that names no function means by a hash of a length.
BY_LENGTH = {64: 1, 40: 2, 32: 3, 96: 5, 128: 6}
SHA256 = pb.DigestFunction.SHA256
#: In the store since the first example.
KEPT = [b"", b"kept", b"kept as well" * 10_000]
_KEPT_DIGESTS = {(digest.hash, digest.size_bytes) for digest in map(digest_of, KEPT)}
_ALL_FUNCTIONS = [*pb.DigestFunction.Value.values(), 11, 1_000, -1, 2**31 - 1]

hashes = st.sampled_from([32, 40, 64, 64, 64, 96, 128]).flatmap(
    lambda length: st.text(HEXADECIMAL, min_size=length, max_size=length)
)
odd_hashes = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=130),
    hashes.map(str.upper),
    hashes.map(lambda text: text[1:] + " "),
    st.just("../" * 21 + "."),
    st.just("\0" * 64),
)
sizes = st.one_of(st.integers(1, 100), st.sampled_from([0, 1, -1, 2**31, 2**62, 2**63 - 1, -(2**63)]))
digests = st.one_of(
    st.sampled_from(KEPT).map(digest_of),
    st.sampled_from(KEPT).map(lambda blob: digest_of(blob, "BLAKE3")),
    st.sampled_from(KEPT).map(lambda blob: pb.Digest(hash=digest_of(blob).hash, size_bytes=len(blob) + 1)),
    st.builds(lambda hash_, size: pb.Digest(hash=hash_, size_bytes=size), hashes, sizes),
)
odd_digests = st.one_of(
    digests, st.builds(lambda hash_, size: pb.Digest(hash=hash_, size_bytes=size), odd_hashes, sizes)
)
#: Half of the questions are of one function; the others of any mixture.
questions = st.one_of(
    st.lists(digests.filter(lambda one: len(one.hash) == 64), max_size=30),
    st.lists(st.one_of(digests, odd_digests), max_size=8),
)


def function_of(asked: list[pb.Digest], named: int) -> int | None:
    """Return the function that a question is of, if all of its digests can be of one that is served."""
    function = named or (BY_LENGTH.get(len(asked[0].hash)) if asked else SHA256)
    sound = all(
        len(one.hash) == LENGTHS.get(function or 0) and not one.hash.strip(HEXADECIMAL) and one.size_bytes >= 0
        for one in asked
    )
    return function if function in LENGTHS and sound else None


def is_kept(digest: pb.Digest, function: int) -> bool:
    if function == SHA256:
        return (digest.hash, digest.size_bytes) in _KEPT_DIGESTS
    # Of the others, only the empty blob is always there.
    return digest == digest_of(b"", pb.DigestFunction.Value.Name(function))


def keep(cas: CasUnderFire) -> None:
    cas.put(*[blob for blob in KEPT if cas.is_missing(digest_of(blob))])


@effort()
@given(asked=questions, named=st.one_of(st.sampled_from([0, 0, 0, SHA256]), st.sampled_from(_ALL_FUNCTIONS)))
def test_those_that_are_missing_are_named_each_once_or_the_question_is_refused(
    cas: CasUnderFire, asked: list[pb.Digest], named: int
) -> None:
    keep(cas)
    request = pb.FindMissingBlobsRequest(instance_name="main", blob_digests=asked)
    request.digest_function = named  # type: ignore[assignment]  # any number may come
    answer = cas.call(rpc.FIND_MISSING_BLOBS, [request])
    function = function_of(asked, named)
    if function is None:
        assert answer.code is INVALID or not asked
        return
    told = [(one.hash, one.size_bytes) for one in answer.message.missing_blob_digests]
    missing = [(one.hash, one.size_bytes) for one in asked if not is_kept(one, function)]
    assert told == list(dict.fromkeys(missing))


@effort()
@given(
    asked=questions,
    named=st.one_of(st.sampled_from([0, 0, 0, SHA256]), st.sampled_from(_ALL_FUNCTIONS)),
    acceptable=st.lists(st.integers(-1, 6), max_size=4),
)
def test_a_batch_is_read_as_it_is_kept_or_refused(
    cas: CasUnderFire, asked: list[pb.Digest], named: int, acceptable: list[int]
) -> None:
    keep(cas)
    request = pb.BatchReadBlobsRequest(instance_name="main", digests=asked)
    request.digest_function = named  # type: ignore[assignment]
    request.acceptable_compressors.extend(acceptable)  # type: ignore[arg-type]
    answer = cas.call(rpc.BATCH_READ_BLOBS, [request])
    function = function_of(asked, named)
    if function is None or sum(one.size_bytes for one in asked) > 2**22:
        assert answer.code is INVALID or not asked
        return
    blobs = {digest_of(blob).hash: blob for blob in KEPT}
    for one in answer.message.responses:
        kept = is_kept(one.digest, function)
        assert one.status.code == (0 if kept else NOT_FOUND.value[0])
        if one.compressor:
            assert one.compressor in acceptable
            one.data = decompress(pb.Compressor.Value.Name(one.compressor), one.data)
        assert one.data == (blobs.get(one.digest.hash, b"") if kept else b"")
    assert {(one.digest.hash, one.digest.size_bytes) for one in answer.message.responses} == {
        (one.hash, one.size_bytes) for one in asked
    }


class Entry(NamedTuple):
    """An entry of a batch: what is drawn of it; its bytes are new ones in each example."""

    data: bytes
    compressor: int
    fault: str


FAULTS = ["", "", "", "size", "hash", "odd hash", "function", "no digest", "garbage", "cut off", "negative"]
entries = st.builds(
    Entry, st.binary(max_size=2_000), st.sampled_from([0, 0, 0, 1, 2, 3, 4, 77, -1]), st.sampled_from(FAULTS)
)


def entry_message(blob: bytes, entry: Entry) -> pb.BatchUpdateBlobsRequest.Request:
    digest, data = digest_of(blob), blob
    name = pb.Compressor.Value.Name(entry.compressor) if 0 <= entry.compressor < 4 else ""
    if name in COMPRESSORS:
        data = compress(name, blob)
    match entry.fault:
        case "size":
            digest.size_bytes += 1
        case "hash":
            digest.hash = digest_of(blob + b".").hash
        case "odd hash":
            digest.hash = digest.hash[:-1] + "/"
        case "function":
            digest = digest_of(blob, "SHA1")
        case "no digest":
            digest = pb.Digest()
        case "garbage":
            data = entry.data + b"\xff"
        case "cut off":
            data = data[: len(data) // 2]
        case "negative":
            digest.size_bytes = -1
    message = pb.BatchUpdateBlobsRequest.Request(digest=digest, data=data)
    message.compressor = entry.compressor  # type: ignore[assignment]
    return message


@effort()
@given(drawn=st.lists(entries, max_size=8))
def test_each_sound_entry_of_a_batch_is_kept_and_no_other(cas: CasUnderFire, drawn: list[Entry]) -> None:
    blobs = [cas.fresh(entry.data) for entry in drawn]
    request = pb.BatchUpdateBlobsRequest(instance_name="main", digest_function=SHA256)
    request.requests.extend(map(entry_message, blobs, drawn))
    responses = cas.call(rpc.BATCH_UPDATE_BLOBS, [request]).message.responses
    sound = [not entry.fault and 0 <= entry.compressor < 4 for entry in drawn]
    assert [one.status.code for one in responses] == [0 if good else INVALID.value[0] for good in sound]
    kept = [blob for blob, good in zip(blobs, sound, strict=True) if good]
    lost = [blob for blob, good in zip(blobs, sound, strict=True) if not good]
    assert {one.hash for one in cas.find_missing(map(digest_of, blobs))} == {digest_of(blob).hash for blob in lost}
    assert [cas.read_blob(digest_of(blob)) for blob in kept] == kept


@effort(share=0.5)
@given(size=st.integers(-(2**63), 2**63 - 1), name=st.sampled_from(["SHA256", "SHA1", "MD5", "SHA512", "BLAKE3"]))
def test_a_size_that_is_not_the_blobs_names_another_blob(cas: CasUnderFire, size: int, name: str) -> None:
    keep(cas)
    digest = pb.Digest(hash=digest_of(KEPT[1], name).hash, size_bytes=size)
    path = "blobs/blake3" if name == "BLAKE3" else "blobs"
    code, _ = cas.read(f"main/{path}/{digest.hash}/{size}")
    assert code is (INVALID if size < 0 else OK if size == len(KEPT[1]) and name == "SHA256" else NOT_FOUND)
