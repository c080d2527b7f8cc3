"""What is asked of a store is counted and timed here."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterator, Mapping, Set
from contextlib import aclosing, contextmanager
from typing import Protocol, TypeVar

from gridwright.blobs.forwarding import ForwardingStore
from gridwright.blobs.resumable import ResumableUploads, UploadName
from gridwright.blobs.store import BlobStore
from gridwright.blobs.stored_frames import StoredFrames, ZstdFrames
from gridwright.digest import Digest
from gridwright.errors import GridwrightError, NotFound

Piece = TypeVar("Piece", bytes, bytes | ZstdFrames)


class StoreRecorder(Protocol):
    """Takes down what ``MeteredStore`` sees; calls come on the event loop, and must be quick."""

    @abstractmethod
    def answered(self, method: str, outcome: str, seconds: float) -> None:
        """*method* of the store answered; *outcome* is ``ok``, or the name of the error's class, or ``cancelled``.

        A ``get`` has answered when its first chunk comes: how long the rest takes is the reader's affair.
        """
        ...

    @abstractmethod
    def looked_up(self, found: int, missing: int) -> None:
        """``missing`` was asked for blobs."""
        ...

    @abstractmethod
    def read(self, found: int, missing: int, size_bytes: int) -> None:
        """Blobs were asked for, by ``get`` or ``get_many``; *size_bytes* of them were handed out."""
        ...

    @abstractmethod
    def written(self, kept: int, refused: int, size_bytes: int) -> None:
        """Blobs came, by ``put`` or ``put_many``; *size_bytes* were of those kept."""
        ...

    @abstractmethod
    def removed(self, count: int) -> None:
        """Blobs went."""
        ...


class MeteredStore(ForwardingStore):
    """Tells a recorder what is asked of the store behind it, and how that answers.

    So no store has a line about metrics in it, and an operator who wants to know how often a
    cache hits wraps that cache.
    """

    def __init__(self, inner: BlobStore, recorder: StoreRecorder) -> None:
        super().__init__(inner)
        self._recorder = recorder
        inner.on_removal(lambda digests: recorder.removed(len(digests)))

    async def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        read = _metered_read(self._recorder, self._inner.get(digest, offset=offset, limit=limit))
        async with aclosing(read) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield chunk
                del chunk

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        kept = 0
        try:
            with _timed(self._recorder, "put"):
                await self._inner.put(digest, chunks)
            kept = 1
        finally:
            self._recorder.written(kept, 1 - kept, digest.size_bytes if kept else 0)

    def resumable_uploads(self, digest: Digest) -> ResumableUploads | None:
        uploads = self._inner.resumable_uploads(digest)
        return None if uploads is None else _MeteredUploads(uploads, self._recorder)

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        with _timed(self._recorder, "missing"):
            missing = await self._inner.missing(digests)
        self._recorder.looked_up(len(digests) - len(missing), len(missing))
        return missing

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        with _timed(self._recorder, "get_many"):
            found = await self._inner.get_many(digests)
        _record_found(self._recorder, found.values())
        return found

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        with _timed(self._recorder, "put_many"):
            kept = await self._inner.put_many(blobs)
        good = [digest.size_bytes for digest, error in kept.items() if error is None]
        self._recorder.written(len(good), len(kept) - len(good), sum(good))
        return kept

    @property
    def stored_frames(self) -> StoredFrames:
        return _MeteredFrames(self._inner.stored_frames, self._recorder)


class _MeteredFrames(StoredFrames):
    """Counts what is read as it is kept as any other read, by the size of the blobs."""

    def __init__(self, inner: StoredFrames, recorder: StoreRecorder) -> None:
        self._inner = inner
        self._recorder = recorder

    async def get(self, digest: Digest, *, offset: int = 0) -> AsyncIterator[bytes | ZstdFrames]:
        async with aclosing(_metered_read(self._recorder, self._inner.get(digest, offset=offset))) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                yield piece
                del piece

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | ZstdFrames | GridwrightError]:
        with _timed(self._recorder, "get_many"):
            found = await self._inner.get_many(digests)
        _record_found(self._recorder, found.values())
        return found


class _MeteredUploads(ResumableUploads):
    """Counts an upload that may be taken up again as it counts any other, each try by itself."""

    def __init__(self, inner: ResumableUploads, recorder: StoreRecorder) -> None:
        self._inner = inner
        self._recorder = recorder

    async def committed_bytes(self, name: UploadName) -> int:
        return await self._inner.committed_bytes(name)

    async def put(self, name: UploadName, offset: int, chunks: AsyncIterable[bytes]) -> None:
        kept = 0
        try:
            with _timed(self._recorder, "put"):
                await self._inner.put(name, offset, chunks)
            kept = 1
        finally:
            self._recorder.written(kept, 1 - kept, name.digest.size_bytes if kept else 0)

    async def forget(self, name: UploadName) -> None:
        await self._inner.forget(name)


@contextmanager
def _timed(recorder: StoreRecorder, method: str) -> Iterator[None]:
    begun = time.perf_counter()
    outcome = "cancelled"
    try:
        yield
        outcome = "ok"
    except GridwrightError as error:
        outcome = type(error).__name__
        raise
    finally:
        recorder.answered(method, outcome, time.perf_counter() - begun)


async def _metered_read(recorder: StoreRecorder, pieces: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    size_bytes, found = 0, 0
    try:
        async with aclosing(pieces):  # type: ignore[type-var]
            with _timed(recorder, "get"):
                piece = await anext(pieces, None)
            found = 1
            while piece is not None:
                size_bytes += _size_of(piece)
                yield piece
                del piece
                piece = await anext(pieces, None)
    except NotFound:
        recorder.read(0, 1, 0)
        raise
    finally:
        if found:
            recorder.read(found, 0, size_bytes)


def _record_found(recorder: StoreRecorder, found: Collection[bytes | ZstdFrames | GridwrightError]) -> None:
    sizes = [_size_of(blob) for blob in found if not isinstance(blob, GridwrightError)]
    recorder.read(len(sizes), sum(isinstance(blob, NotFound) for blob in found), sum(sizes))


def _size_of(piece: bytes | ZstdFrames) -> int:
    return piece.size_bytes if isinstance(piece, ZstdFrames) else len(piece)
