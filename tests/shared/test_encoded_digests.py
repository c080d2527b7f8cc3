"""Digests read from bytes are those that are read message by message."""

from __future__ import annotations

from collections.abc import Set

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gridwright.blobs.packed_digests import PackedDigests, pack, unpack
from gridwright.digest import Digest, DigestFunction
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.digests import digest_message
from gridwright.wire.encoded_digests import read_encoded_digests
from gridwright.wire.varint import varint, varints_in

FIELD = pb.FindMissingBlobsRequest.BLOB_DIGESTS_FIELD_NUMBER
SIZES = st.one_of(st.sampled_from([0, 1, 127, 128, 16_383, 16_384, 2**62, 2**63 - 1]), st.integers(0, 2**63 - 1))


def encode(messages: list[pb.Digest]) -> bytes:
    return pb.FindMissingBlobsRequest(blob_digests=messages).SerializeToString()


@st.composite
def digests(draw: st.DrawFn) -> list[Digest]:
    function = draw(st.sampled_from(DigestFunction))
    raw = st.binary(min_size=function.hash_length // 2, max_size=function.hash_length // 2)
    few = draw(st.lists(st.tuples(raw, SIZES), min_size=1, max_size=4))
    return [Digest(function, one.hex(), size) for one, size in draw(st.lists(st.sampled_from(few), min_size=1))]


@given(digests())
@example([DigestFunction.SHA256.empty, DigestFunction.SHA256.digest(b"hello"), DigestFunction.SHA256.empty])
def test_each_digest_is_read_once_and_in_order(asked: list[Digest]) -> None:
    """FMB-04, FMB-05."""
    read = read_encoded_digests(encode([digest_message(digest) for digest in asked]), FIELD, asked[0].function)
    assert read is not None
    once = list(dict.fromkeys(asked))
    assert list(read) == once
    assert list(read.packed) == pack(once)
    assert len(read) == len(once)
    assert all(digest in read for digest in asked)
    for chosen in (set(once[::2]), PackedDigests(set(pack(once[::2]))), read):
        answer = pb.FindMissingBlobsResponse.FromString(b"".join(read.fields_of(chosen)))
        assert list(answer.missing_blob_digests) == [digest_message(one) for one in once if one in chosen]
    assert read.fields_of(set()) == []


@pytest.mark.parametrize(
    "bad",
    [
        pb.Digest(hash="A" * 64, size_bytes=1),
        pb.Digest(hash="a" * 63, size_bytes=1),
        pb.Digest(hash="a" * 65, size_bytes=1),
        pb.Digest(hash="g" * 64, size_bytes=1),
        pb.Digest(hash="a" * 62 + "ä", size_bytes=1),
        pb.Digest(hash="a" * 63 + " ", size_bytes=1),
        pb.Digest(hash="a" * 63 + "\n", size_bytes=1),
        pb.Digest(hash="a" * 64, size_bytes=-1),
        pb.Digest(size_bytes=1),
        pb.Digest(),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_digest_that_is_none_is_not_read(bad: pb.Digest, place: int) -> None:
    """DIG-01, DIG-03, DIG-04."""
    messages = [digest_message(DigestFunction.SHA256.digest(b"%d" % number)) for number in range(2)]
    messages.insert(place, bad)
    assert read_encoded_digests(encode(messages), FIELD, DigestFunction.SHA256) is None


def test_what_looks_like_a_digest_inside_of_another_is_not_read() -> None:
    hidden = encode([digest_message(DigestFunction.SHA256.digest(b"hidden"))])
    around = digest_message(DigestFunction.SHA256.digest(b"around")).SerializeToString() + hidden
    encoded = bytes([FIELD << 3 | 2]) + varint(len(around)) + around
    assert len(pb.FindMissingBlobsRequest.FromString(encoded).blob_digests) == 1
    assert read_encoded_digests(encoded, FIELD, DigestFunction.SHA256) is None


@given(st.binary(max_size=400))
def test_bytes_that_are_no_digests_are_not_read(encoded: bytes) -> None:
    assert encoded == b"" or read_encoded_digests(encoded, FIELD, DigestFunction.MD5) is None


@given(st.lists(SIZES))
def test_numbers_are_read_as_they_were_written(numbers: list[int]) -> None:
    assert varints_in(b"".join(map(varint, numbers))) == numbers


def test_packed_digests_are_a_set_like_any_other() -> None:
    one, two, three = (DigestFunction.SHA1.digest(b"%d" % number) for number in range(3))
    packed: Set[object] = PackedDigests(set(pack([one, two])))
    assert packed == {one, two}
    assert one in packed
    assert three not in packed
    assert "one" not in packed
    assert packed & {one, three} == {one} == {one, three} & packed
    assert packed | {three} == {one, two, three} == {three} | packed
    assert packed - {one} == {two}
    assert {one, three} - packed == {three}
    assert [unpack(each) for each in pack([one, two, three])] == [one, two, three]
    assert not PackedDigests(set())
