"""Blobs are compressed on their way down, and decompressed on their way up."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import aclosing
from typing import ParamSpec, TypeVar

from gridwright.blobs.forwarding import ForwardingStore
from gridwright.blobs.store import CHUNK_BYTES, BlobStore, is_empty, part_of
from gridwright.blobs.stored_frames import PlainFrames, StoredFrames, ZstdFrames
from gridwright.digest import Digest
from gridwright.errors import BlobCorrupted, DigestMismatch, GridwrightError, OutOfRange
from gridwright_cas.stores.codecs import Codec, FrameCorrupted, ZstdCodec, decompress, is_zstd_frame
from gridwright_cas.stores.seek_table import SeekTable, decode, encode, length_of_table, table_bytes
from gridwright_cas.stores.stored_blocks import StoredBlocks

P = ParamSpec("P")
T = TypeVar("T")

#: Compressing so little takes less time than handing it to a thread.
_INLINE_BYTES = 32 * 1024
#: Blobs up to this size are read in one piece, whatever part of them is wanted.
_WHOLE_BYTES = 256 * 1024
#: A blob that is one frame has at most so many bytes: no codec has larger blocks.
_MAX_FRAME_BYTES = 16 * 1024 * 1024


class CompressedStore(ForwardingStore):
    """Keeps each blob compressed, as frames of one block each and a table of them (see ``seek_table``).

    Sources, objects and logs take a third of the space or less. Any part of a blob can be
    read by decompressing the blocks that it lies in; what cannot be compressed costs little.
    Frames have checksums: one that is damaged is ``BlobCorrupted`` before a byte of it is sent,
    unless it is sent as it is (``stored_frames``): then who decompresses it sees that.

    What is stored is a stream that standard tools decompress, and names its own codec and
    block size: another *codec* is for new blobs, old ones stay readable. The store behind it
    must be a leaf's kind of store, which keeps any bytes under a digest.
    """

    def __init__(self, inner: BlobStore, codec: Codec) -> None:
        super().__init__(inner)
        self._codec = codec

    def __repr__(self) -> str:
        return f"<CompressedStore {self._codec!r} of {self._inner!r}>"

    @property
    def stored_frames(self) -> StoredFrames:
        return _ZstdFramesOf(self, self._inner) if isinstance(self._codec, ZstdCodec) else PlainFrames(self)

    async def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        parts = (
            self._get_whole(digest, offset, limit)
            if self.reads_whole(digest)
            else self._get_part(digest, offset, limit)
        )
        async with aclosing(parts) as blocks:  # type: ignore[type-var]
            async for block in blocks:
                for begin in range(0, len(block), CHUNK_BYTES):
                    yield block[begin : begin + CHUNK_BYTES] if len(block) > CHUNK_BYTES else block
                del block

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        """Keep the blob, compressed.

        Raises:
            DigestMismatch: it has another size than its digest, by which it could not be read again.
        """
        if is_empty(digest):
            await self._inner.put(digest, chunks)
        else:
            await self._inner.put(digest, self._compressed(digest, chunks))

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        stored = await self._inner.get_many(digests)
        return await _computed(sum(digest.size_bytes for digest in stored), _decompress_all, stored)

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        refused: dict[Digest, GridwrightError | None] = {
            digest: _wrong_size(digest, len(blob)) for digest, blob in blobs.items() if len(blob) != digest.size_bytes
        }
        good = {digest: blob for digest, blob in blobs.items() if digest not in refused} if refused else blobs
        stored = await _computed(sum(map(len, good.values())), self._compress_all, good)
        return {**(await self._inner.put_many(stored) if stored else {}), **refused}

    def _compress_all(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, bytes]:
        return {digest: b"" if is_empty(digest) else self._compress(blob) for digest, blob in blobs.items()}

    def _compress(self, blob: bytes) -> bytes:
        block_bytes = self._codec.block_bytes
        if len(blob) <= block_bytes:
            return self._codec.compress(blob)
        frames = self._frames(blob)
        return b"".join([*frames, encode([*map(len, frames)], block_bytes, len(blob))])

    def _frames(self, part: bytes) -> list[bytes]:
        """Return the frames of a part of a blob that begins where a block does."""
        block_bytes = self._codec.block_bytes
        view = memoryview(part)
        return [self._codec.compress(view[at : at + block_bytes]) for at in range(0, max(1, len(part)), block_bytes)]

    async def _compressed(self, digest: Digest, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """Yield what is stored of a blob."""
        block_bytes = self._codec.block_bytes
        stored_sizes = array("I")
        size_bytes = 0
        async for part in _parts(chunks, max(1, CHUNK_BYTES // block_bytes) * block_bytes):
            size_bytes += len(part)
            if size_bytes > digest.size_bytes:
                raise _wrong_size(digest, size_bytes)
            frames = await _computed(len(part), self._frames, part)
            stored_sizes.extend(map(len, frames))
            yield frames[0] if len(frames) == 1 else b"".join(frames)
        if size_bytes != digest.size_bytes:
            raise _wrong_size(digest, size_bytes)
        if not stored_sizes:
            yield self._codec.compress(b"")
        yield encode(stored_sizes, block_bytes, size_bytes)

    async def _get_whole(self, digest: Digest, offset: int, limit: int | None) -> AsyncIterator[bytes]:
        blob = (await self.get_many([digest]))[digest]
        if isinstance(blob, GridwrightError):
            raise blob
        start, end = part_of(digest, len(blob), offset, limit)
        yield blob if end - start == len(blob) else blob[start:end]

    def reads_whole(self, digest: Digest) -> bool:
        """Whether the blob is read in one piece, whatever part of it is wanted."""
        return digest.size_bytes <= max(_WHOLE_BYTES, self._codec.block_bytes)

    async def stored_parts(self, digest: Digest, offset: int) -> AsyncIterator[bytes | ZstdFrames]:
        """Yield a large blob from *offset* on: its frames where they are Zstandard's, as ``StoredFrames`` has it."""
        table = await self._table(digest)
        if table is None:
            async for block in self._get_single_block(digest, offset, None):
                yield block
                del block
            return
        start, end = part_of(digest, table.size_bytes, offset, None)
        async with aclosing(self._stored_blocks(digest, table, start, end)) as groups:  # type: ignore[type-var]
            async for stored in groups:
                if stored.begin >= start and stored.are_zstd:
                    yield ZstdFrames(stored.frames, stored.size_bytes)
                else:
                    yield await self._part_of_blocks(digest, stored, start, end)
                del stored

    async def _get_part(self, digest: Digest, offset: int, limit: int | None) -> AsyncIterator[bytes]:
        """Yield the wanted part of a large blob from the blocks that it lies in."""
        table = await self._table(digest)
        if table is None:
            async for block in self._get_single_block(digest, offset, limit):
                yield block
                del block
            return
        start, end = part_of(digest, table.size_bytes, offset, limit)
        async with aclosing(self._stored_blocks(digest, table, start, end)) as groups:  # type: ignore[type-var]
            async for stored in groups:
                yield await self._part_of_blocks(digest, stored, start, end)
                del stored

    async def _get_single_block(self, digest: Digest, offset: int, limit: int | None) -> AsyncIterator[bytes]:
        """Yield the wanted part of a blob without a table: the one block of a store with larger blocks than ours."""
        if digest.size_bytes > _MAX_FRAME_BYTES:
            raise BlobCorrupted(digest)
        async for block in self._get_whole(digest, offset, limit):
            yield block
            del block

    async def _part_of_blocks(self, digest: Digest, stored: StoredBlocks, start: int, end: int) -> bytes:
        """Return what of a blob's bytes from *start* to *end* lies in some blocks."""
        try:
            part = await _computed(stored.size_bytes, stored.decompress)
        except FrameCorrupted:
            raise BlobCorrupted(digest) from None
        return part[max(0, start - stored.begin) : end - stored.begin]

    async def _stored_blocks(
        self, digest: Digest, table: SeekTable, start: int, end: int
    ) -> AsyncIterator[StoredBlocks]:
        """Yield the blocks of a blob in which its bytes from *start* to *end* lie, about ``CHUNK_BYTES`` at a time."""
        if start >= end:
            return
        first, last = start // table.block_bytes, (end - 1) // table.block_bytes + 1
        at_once = max(1, CHUNK_BYTES // table.block_bytes)
        groups = [range(block, min(block + at_once, last)) for block in range(first, last, at_once)]
        from_, to = table.starts[first], table.starts[last]
        stored = self._inner.get(digest, offset=from_, limit=to - from_)
        async with aclosing(stored) as chunks:  # type: ignore[type-var]
            sizes = (table.starts[group.stop] - table.starts[group.start] for group in groups)
            pieces = _exactly(chunks, sizes)
            try:
                for group in groups:
                    yield StoredBlocks(await anext(pieces), table, group)
            except (FrameCorrupted, OutOfRange):  # the table names a place beyond the end, say
                raise BlobCorrupted(digest) from None

    async def _table(self, digest: Digest) -> SeekTable | None:
        """Return the table of a large blob, or None if it has none that makes sense."""
        length = max(table_bytes(2), table_bytes(-(-digest.size_bytes // self._codec.block_bytes)))
        tail = b"".join([chunk async for chunk in self._inner.get(digest, offset=-length)])
        length = length_of_table(tail, digest.size_bytes)
        if length > len(tail):  # it was written with smaller blocks than ours
            tail = b"".join([chunk async for chunk in self._inner.get(digest, offset=-length)])
        return decode(tail, digest.size_bytes)


def _decompress_all(stored: Mapping[Digest, bytes | GridwrightError]) -> Mapping[Digest, bytes | GridwrightError]:
    found: dict[Digest, bytes | GridwrightError] = {}
    for digest, frames in stored.items():
        if isinstance(frames, GridwrightError) or is_empty(digest):
            found[digest] = frames
            continue
        try:
            found[digest] = _decompress_blob(frames, digest.size_bytes)
        except FrameCorrupted:
            found[digest] = BlobCorrupted(digest)
    return found


def _decompress_blob(stored: bytes, size_bytes: int) -> bytes:
    table = decode(stored, size_bytes)
    return decompress(stored, size_bytes) if table is None else _all_blocks(stored, table).decompress()


def _all_blocks(stored: bytes, table: SeekTable) -> StoredBlocks:
    return StoredBlocks(stored, table, range(len(table.starts) - 1))


class _ZstdFramesOf(StoredFrames):
    """The frames of a store that keeps Zstandard; what it keeps in other ways comes decompressed."""

    def __init__(self, store: CompressedStore, inner: BlobStore) -> None:
        self._store = store
        self._inner = inner

    async def get(self, digest: Digest, *, offset: int = 0) -> AsyncIterator[bytes | ZstdFrames]:
        if self._store.reads_whole(digest):
            pieces = self._store.get(digest, offset=offset) if offset else self._get_whole(digest)
        else:
            pieces = self._store.stored_parts(digest, offset)
        async with aclosing(pieces):  # type: ignore[type-var]
            async for piece in pieces:
                yield piece
                del piece

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | ZstdFrames | GridwrightError]:
        found: dict[Digest, bytes | ZstdFrames | GridwrightError] = {}
        plain: dict[Digest, bytes | GridwrightError] = {}
        for digest, stored in (await self._inner.get_many(digests)).items():
            if isinstance(stored, bytes) and (frames := _frames_without_table(stored, digest.size_bytes)):
                found[digest] = frames
            else:
                plain[digest] = stored
        return {**found, **await _computed(sum(digest.size_bytes for digest in plain), _decompress_all, plain)}

    async def _get_whole(self, digest: Digest) -> AsyncIterator[bytes | ZstdFrames]:
        blob = (await self.get_many([digest]))[digest]
        if isinstance(blob, GridwrightError):
            raise blob
        yield blob


def _frames_without_table(stored: bytes, size_bytes: int) -> ZstdFrames | None:
    """Return the frames of a blob, if they are Zstandard's and smaller than the blob."""
    table = decode(stored, size_bytes)
    if table is None:
        data = stored if is_zstd_frame(stored, size_bytes) else b""
    else:
        data = stored[: table.starts[-1]] if _all_blocks(stored, table).are_zstd else b""
    return ZstdFrames(data, size_bytes) if 0 < len(data) < size_bytes else None


def _wrong_size(digest: Digest, size_bytes: int) -> DigestMismatch:
    return DigestMismatch(f"{size_bytes} bytes came for blob {digest}")


async def _computed(size_bytes: int, compute: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Compute something about so many bytes, in a thread if they are many."""
    if size_bytes <= _INLINE_BYTES:
        return compute(*args, **kwargs)
    return await asyncio.to_thread(compute, *args, **kwargs)


async def _parts(chunks: AsyncIterable[bytes], part_bytes: int) -> AsyncIterator[bytes]:
    """Yield the same bytes in parts of *part_bytes*, the last one with what is left."""
    pending = bytearray()
    async for chunk in chunks:
        if not pending and len(chunk) == part_bytes:
            yield chunk
            continue
        pending += chunk
        while len(pending) >= part_bytes:
            yield bytes(pending[:part_bytes])
            del pending[:part_bytes]
    if pending:
        yield bytes(pending)


async def _exactly(chunks: AsyncIterator[bytes], sizes: Iterable[int]) -> AsyncIterator[bytes]:
    """Yield the same bytes in pieces of these *sizes*.

    Raises:
        FrameCorrupted: they are too few.
    """
    pending = bytearray()
    for size in sizes:
        while len(pending) < size:
            chunk = await anext(chunks, None)
            if chunk is None:
                raise FrameCorrupted("what is stored ends early")
            pending += chunk
            del chunk
        yield bytes(pending[:size])
        del pending[:size]
