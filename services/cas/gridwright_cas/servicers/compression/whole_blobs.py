"""Whole blobs, compressed and decompressed: the entries of batches."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from gridwright.blobs.stored_frames import ZstdFrames
from gridwright.digest import Digest
from gridwright.errors import DigestMismatch, GridwrightError
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_cas.servicers.compression.codec import Compressor
from gridwright_cas.servicers.compression.zstd import CODEC
from gridwright_cas.stores.codecs import FrameCorrupted, decompress, is_zstd_frame

#: A frame has some 15 bytes beside what it holds, so these hardly ever shrink.
_HARDLY_SHRINKS_BYTES = 64
#: Compressing so little takes less time than handing it to a thread.
_INLINE_BYTES = 32 * 1024


def decompressed_blob(compressor: Compressor, data: bytes, digest: Digest) -> bytes:
    """Return the blob that was sent as *data*; its hash is not looked at.

    No more memory is taken than the digest says, and a piece (checklist CMP-05 to CMP-07).

    Raises:
        DigestMismatch: it has another size than the digest says.
        InvalidRequest: *data* is damaged, or cut off.
    """
    size_bytes = digest.size_bytes
    if compressor.number == pb.Compressor.ZSTD and is_zstd_frame(data, size_bytes):
        # What nearly all clients send is decompressed in a thirtieth of the time.
        try:
            return decompress(data, size_bytes)
        except FrameCorrupted:
            pass  # it is several frames, or damaged: the decoder knows
    decoder = compressor.decoder()
    pieces: list[bytes] = []
    came_bytes = 0
    for piece in decoder.decode(data):
        came_bytes += len(piece)
        if came_bytes > size_bytes:
            raise DigestMismatch(f"more than {size_bytes} bytes came for blob {digest}")
        pieces.append(piece)
    decoder.finish()
    if came_bytes < size_bytes:
        raise DigestMismatch(f"only {came_bytes} bytes came for blob {digest}")
    return b"".join(pieces)


async def in_zstd(
    found: Mapping[Digest, bytes | ZstdFrames | GridwrightError],
) -> Mapping[Digest, bytes | ZstdFrames | GridwrightError]:
    """Return the same blobs, those in frames that become smaller by it."""
    if sum([len(blob) for blob in found.values() if isinstance(blob, bytes)]) <= _INLINE_BYTES:
        return _in_zstd(found)
    return await asyncio.to_thread(_in_zstd, found)


def _in_zstd(
    found: Mapping[Digest, bytes | ZstdFrames | GridwrightError],
) -> Mapping[Digest, bytes | ZstdFrames | GridwrightError]:
    return {digest: _shrunk(blob) if isinstance(blob, bytes) else blob for digest, blob in found.items()}


def _shrunk(blob: bytes) -> bytes | ZstdFrames:
    if len(blob) <= _HARDLY_SHRINKS_BYTES:
        return blob
    frame = CODEC.compress(blob)
    return ZstdFrames(frame, len(blob)) if len(frame) < len(blob) else blob
