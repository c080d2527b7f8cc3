"""Compressed uploads: what other compressors make, and what none makes."""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Sequence
from typing import Literal

import brotli
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_rpc as rpc
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from tests.conformance.blobs import digest_of
from tests.conformance.compressors import COMPRESSORS, compress
from tests.fuzz.cas_under_fire import INVALID, OK, Answer, CasUnderFire, upload_name
from tests.fuzz.effort import effort

_MIB = 2**20
Fault = Literal["cut off", "flipped", "behind", "before", "swapped", "twice"]
#: A frame that holds nothing, for whoever knows what it is for.
_SKIPPABLE = bytes.fromhex("502a4d1803000000") + b"abc"

compressors = st.sampled_from(COMPRESSORS)
#: Where a stream is cut into messages.
cuts = st.lists(st.integers(0, 5_000), max_size=4)
blobs = st.one_of(
    st.binary(max_size=3_000),
    st.integers(0, 3 * _MIB).map(bytes),
    st.integers(0, _MIB + 100).map(lambda size: random.Random(size).randbytes(size)),
)


def upload(
    cas: CasUnderFire, digest: pb.Digest, compressor: str, data: bytes, at: Sequence[int] = ()
) -> Answer[bs.WriteResponse]:
    """Upload *data* in messages that end where *at* says, and some MiB further on at the latest."""
    bounds = sorted({0, *(one for one in at if one < len(data)), *range(0, len(data), 3 * _MIB), len(data)})
    name = upload_name(digest, compressor.lower())
    pieces = list(itertools.pairwise(bounds)) or [(0, 0)]
    return cas.write(
        [
            bs.WriteRequest(
                resource_name=name, write_offset=start, data=data[start:end], finish_write=end == bounds[-1]
            )
            for start, end in pieces
        ]
    )


def update(cas: CasUnderFire, digest: pb.Digest, compressor: str, data: bytes) -> int:
    """Return the status of *data* as the only entry of a batch."""
    entry = pb.BatchUpdateBlobsRequest.Request(digest=digest, data=data, compressor=compressor)
    request = pb.BatchUpdateBlobsRequest(instance_name="main", requests=[entry])
    (response,) = cas.call(rpc.BATCH_UPDATE_BLOBS, [request]).message.responses
    return response.status.code


@effort()
@given(compressor=compressors, data=blobs, at=cuts)
def test_what_a_compressor_made_is_kept(cas: CasUnderFire, compressor: str, data: bytes, at: Sequence[int]) -> None:
    blob = cas.fresh(data)
    packed = compress(compressor, blob)
    answer = upload(cas, digest_of(blob), compressor, packed, at)
    assert answer.message.committed_size == len(packed)
    assert cas.read_blob(digest_of(blob)) == blob


@effort()
@given(
    parts=st.lists(st.tuples(st.binary(max_size=2_000), st.integers(-5, 19), st.booleans(), st.booleans()), max_size=6),
    at=cuts,
)
def test_any_number_of_zstd_frames_is_kept(
    cas: CasUnderFire, parts: Sequence[tuple[bytes, int, bool, bool]], at: Sequence[int]
) -> None:
    blob = cas.fresh(b"".join([data for data, *_ in parts]))
    packed = zstandard.compress(blob[: len(blob) - sum(len(data) for data, *_ in parts)])
    for data, level, with_size, with_checksum in parts:
        frame = zstandard.ZstdCompressor(level=level, write_content_size=with_size, write_checksum=with_checksum)
        packed += frame.compress(data) + (_SKIPPABLE if with_size else b"")
    assert upload(cas, digest_of(blob), "zstd", packed, at).code is OK
    assert cas.read_blob(digest_of(blob)) == blob


@effort()
@given(
    compressor=compressors,
    data=blobs,
    fault=st.sampled_from(Fault.__args__),  # type: ignore[attr-defined]  # of a Literal
    where=st.integers(0, 2**32),
    at=cuts,
)
@example(compressor="ZSTD", data=b"", fault="cut off", where=0, at=[])
def test_what_is_damaged_is_refused_or_is_the_blob_all_the_same(
    cas: CasUnderFire, compressor: str, data: bytes, fault: Fault, where: int, at: Sequence[int]
) -> None:
    blob = cas.fresh(data)
    packed = compress(compressor, blob)
    where %= len(packed)
    match fault:
        case "cut off":
            packed = packed[:where]
        case "flipped":
            packed = packed[:where] + bytes([packed[where] ^ (1 << where % 8)]) + packed[where + 1 :]
        case "behind":
            packed += random.Random(where).randbytes(where % 50 + 1)
        case "before":
            packed = b"\x78\x9c" + packed
        case "swapped":
            packed = packed[where:] + packed[:where]
        case "twice":
            packed += packed
    answer = upload(cas, digest_of(blob), compressor, packed, at)
    in_batch = update(cas, digest_of(blob), compressor, packed[:3_000_000])
    if answer.code is OK or in_batch == 0:
        assert fault in ("flipped", "swapped"), (answer, in_batch)
        assert cas.read_blob(digest_of(blob)) == blob
    else:
        assert (answer.code, in_batch) == (INVALID, INVALID.value[0])
        assert cas.is_missing(digest_of(blob))


@effort()
@given(compressor=compressors, data=st.binary(max_size=500), at=cuts)
def test_what_was_never_compressed_is_refused(
    cas: CasUnderFire, compressor: str, data: bytes, at: Sequence[int]
) -> None:
    digest = digest_of(cas.fresh(data))
    assert upload(cas, digest, compressor, data, at).code is INVALID


def bomb(compressor: str, size: int) -> bytes:
    """Return what becomes *size* zeros."""
    piece = bytes(min(size, 16 * _MIB))
    match compressor:
        case "ZSTD":
            return zstandard.compress(piece, 19) * (size // len(piece))
        case "DEFLATE":
            raw = zlib.compressobj(9, zlib.DEFLATED, -15)
            return b"".join([raw.compress(piece) for _ in range(size // len(piece))]) + raw.flush()
    stream = brotli.Compressor(quality=5, lgwin=24)
    return b"".join([stream.process(piece) for _ in range(size // len(piece))]) + bytes(stream.finish())


BOMBS = {compressor: bomb(compressor, 256 * _MIB) for compressor in COMPRESSORS}


@effort(share=0.1)
@given(compressor=compressors, size=st.sampled_from([0, 10, 1_000, _MIB, 3 * _MIB]))
def test_a_bomb_is_refused_and_takes_no_memory(cas: CasUnderFire, compressor: str, size: int) -> None:
    digest = digest_of(cas.fresh(b""))
    digest.size_bytes = size or digest.size_bytes
    before = cas.anonymous_bytes()
    assert upload(cas, digest, compressor, BOMBS[compressor]).code is INVALID
    assert update(cas, digest, compressor, BOMBS[compressor][: 3 * _MIB]) == INVALID.value[0]
    assert cas.anonymous_bytes() - before < 96 * _MIB
