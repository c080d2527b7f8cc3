"""Compression on the wire: what encoders make, decoders take, in pieces, and no damage gets through."""

from __future__ import annotations

import asyncio
import contextlib
import os
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gridwright.digest import DigestFunction
from gridwright.errors import DigestMismatch, InvalidRequest, ResourceExhausted
from gridwright_cas.servicers.compression import unpacking
from gridwright_cas.servicers.compression.codec import PIECE_BYTES, Compressor
from gridwright_cas.servicers.compression.compressors import BY_NAME, BY_NUMBER
from gridwright_cas.servicers.compression.unpacking import UnpackingRoom
from gridwright_cas.servicers.compression.whole_blobs import decompressed_blob

SHA256 = DigestFunction.SHA256
every_compressor = pytest.mark.parametrize("compressor", BY_NAME.values(), ids=list(BY_NAME))
compressors = st.sampled_from(list(BY_NAME.values()))
MIXED = os.urandom(PIECE_BYTES + 5) + bytes(3 * PIECE_BYTES)


def encoded(compressor: Compressor, data: bytes, step: int = PIECE_BYTES) -> bytes:
    encoder = compressor.encoder()
    return b"".join([encoder.encode(data[at : at + step]) for at in range(0, len(data), step)]) + encoder.finish()


def decoded(compressor: Compressor, data: bytes, step: int) -> bytes:
    decoder = compressor.decoder()
    pieces = [piece for at in range(0, len(data), step) for piece in decoder.decode(data[at : at + step])]
    decoder.finish()
    assert max(map(len, pieces), default=0) <= PIECE_BYTES
    return b"".join(pieces)


def test_each_is_known_by_name_and_number() -> None:
    assert set(BY_NAME) == {"zstd", "deflate", "brotli"}
    assert list(BY_NUMBER.values()) == list(BY_NAME.values())


@every_compressor
@pytest.mark.parametrize("step", [1009, 100_000, 10**8])
@pytest.mark.parametrize("data", [b"", b"x", MIXED, bytes(PIECE_BYTES - 1), bytes(PIECE_BYTES), bytes(PIECE_BYTES + 1)])
def test_what_is_encoded_is_decoded_in_pieces(compressor: Compressor, data: bytes, step: int) -> None:
    assert decoded(compressor, encoded(compressor, data), step) == data


def test_other_programs_read_what_is_encoded() -> None:
    assert (
        zstandard.ZstdDecompressor().stream_reader(encoded(BY_NAME["zstd"], MIXED), read_across_frames=True).read()
        == MIXED
    )
    assert zlib.decompress(encoded(BY_NAME["deflate"], MIXED), wbits=-15) == MIXED
    assert brotli.decompress(encoded(BY_NAME["brotli"], MIXED)) == MIXED


@every_compressor
def test_a_bomb_comes_in_pieces(compressor: Compressor) -> None:
    decoder = compressor.decoder()
    pieces = decoder.decode(encoded(compressor, bytes(64 * PIECE_BYTES)))
    assert len(next(pieces)) <= PIECE_BYTES


@every_compressor
@pytest.mark.parametrize("data", [b"x", MIXED])
def test_a_stream_that_is_cut_off_is_refused(compressor: Compressor, data: bytes) -> None:
    whole = encoded(compressor, data)
    for length in {1, len(whole) // 2, len(whole) - 2, len(whole) - 1} - {0}:
        with pytest.raises(InvalidRequest):
            decoded(compressor, whole[:length], 10**8)


@every_compressor
@pytest.mark.parametrize("step", [7, 10**8])
def test_what_follows_a_stream_is_refused(compressor: Compressor, step: int) -> None:
    with pytest.raises(InvalidRequest, match="compress the blob again"):
        decoded(compressor, encoded(compressor, b"hello") + b"garbage", step)


def test_frames_that_ask_for_much_memory_are_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=24, write_content_size=False)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(InvalidRequest, match="too much memory"):
        decoded(BY_NAME["zstd"], stream.compress(b"hello") + stream.flush(), 10**8)


def test_a_stream_of_nothing_but_tiny_frames_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="frames hold fewer"):
        decoded(BY_NAME["zstd"], zstandard.compress(b"x") * 2000, 10**8)
    assert decoded(BY_NAME["zstd"], zstandard.compress(b"x" * 2000) * 5000, 10**8) == b"x" * 10**7


@settings(max_examples=150, deadline=None)
@given(compressors, st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_are_decoded_or_refused(compressor: Compressor, data: bytes, step: int) -> None:
    with contextlib.suppress(InvalidRequest):
        decoded(compressor, data, step)


@settings(max_examples=150, deadline=None)
@given(compressors, st.binary(min_size=1, max_size=2000), st.data())
def test_any_damage_is_refused_or_does_no_harm(compressor: Compressor, data: bytes, choice: st.DataObject) -> None:
    whole = bytearray(encoded(compressor, data))
    whole[choice.draw(st.integers(0, len(whole) - 1))] ^= choice.draw(st.integers(1, 255))
    digest = SHA256.digest(data)
    try:
        blob = decompressed_blob(compressor, bytes(whole), digest)
    except InvalidRequest:
        return
    assert len(blob) == digest.size_bytes


@every_compressor
def test_a_whole_blob_has_the_size_of_its_digest(compressor: Compressor) -> None:
    data = MIXED
    digest = SHA256.digest(data)
    whole = encoded(compressor, data)
    assert decompressed_blob(compressor, whole, digest) == data
    for by in (-1, 1):
        with pytest.raises(DigestMismatch):
            decompressed_blob(compressor, whole, digest._replace(size_bytes=len(data) + by))


async def test_batches_wait_for_room_to_be_unpacked_in(monkeypatch: pytest.MonkeyPatch) -> None:
    room = UnpackingRoom(total_bytes=100)
    inside = asyncio.Event()

    async def second() -> None:
        async with room.taken(50):
            inside.set()

    async with room.taken(60):
        waiting = asyncio.create_task(second())
        await asyncio.wait([waiting], timeout=0.01)
        assert not inside.is_set()
    await waiting
    async with room.taken(1000):
        monkeypatch.setattr(unpacking, "_PATIENCE_SECONDS", 0.01)
        with pytest.raises(ResourceExhausted, match="send this one again"):
            await second()
    async with room.taken(100):
        pass
