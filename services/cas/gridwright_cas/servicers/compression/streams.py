"""Whole streams of a blob, decompressed as they come and compressed as they go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import ParamSpec, TypeVar

from gridwright.blobs.store import CHUNK_BYTES, BlobStore
from gridwright.blobs.stored_frames import ZstdFrames
from gridwright.digest import Digest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_cas.servicers.compression.codec import Compressor

P = ParamSpec("P")
T = TypeVar("T")

#: Less is decompressed, or compressed, sooner than handed to a thread.
_INLINE_BYTES = 32 * 1024


async def decompressed(chunks: AsyncIterator[bytes], compressor: Compressor) -> AsyncGenerator[bytes, None]:
    """Yield what *chunks* decompress to, in pieces of a MiB at most; empty chunks as they are.

    Raises:
        InvalidRequest: they are damaged, or cut off (checklist CMP-06).
    """
    decoder = compressor.decoder()
    async with aclosing(chunks):  # type: ignore[type-var]
        async for chunk in chunks:
            if not chunk:
                yield chunk
                continue
            pieces = decoder.decode(chunk)
            size_bytes = len(chunk)
            del chunk
            while (piece := await _computed(size_bytes, next, pieces, None)) is not None:
                yield piece
    decoder.finish()


async def compressed(
    store: BlobStore, digest: Digest, offset: int, compressor: Compressor
) -> AsyncGenerator[bytes, None]:
    """Yield a blob from *offset* on, compressed; what is kept so is sent as it is.

    Raises:
        GridwrightError: as ``BlobStore.get``.
    """
    encoder = compressor.encoder()
    has_frames = compressor.number == pb.Compressor.ZSTD
    pieces: AsyncIterator[bytes | ZstdFrames]
    pieces = store.stored_frames.get(digest, offset=offset) if has_frames else store.get(digest, offset=offset)
    async with aclosing(pieces):  # type: ignore[type-var]
        async for piece in pieces:
            parts = _parts(
                piece.data if isinstance(piece, ZstdFrames) else await _computed(len(piece), encoder.encode, piece)
            )
            del piece
            while parts:
                yield parts.pop(0)
    for part in _parts(encoder.finish()):
        yield part


def _parts(data: bytes) -> list[bytes]:
    """Return *data* in pieces that fit into messages."""
    if len(data) <= CHUNK_BYTES:
        return [data] if data else []
    return [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]


async def _computed(size_bytes: int, compute: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Compute something about so many bytes, in a thread if they are many."""
    if size_bytes <= _INLINE_BYTES:
        return compute(*args, **kwargs)
    return await asyncio.to_thread(compute, *args, **kwargs)
