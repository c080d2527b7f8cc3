"""What is asked of a store is counted and timed here."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterator, Mapping, Set
from contextlib import aclosing, contextmanager
from typing import Protocol

from gridwright.blobs.forwarding import ForwardingStore
from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest
from gridwright.errors import GridwrightError, NotFound


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
        size_bytes, found = 0, 0
        try:
            async with aclosing(self._inner.get(digest, offset=offset, limit=limit)) as chunks:  # type: ignore[type-var]
                with self._timed("get"):
                    chunk = await anext(chunks, None)
                found = 1
                while chunk is not None:
                    size_bytes += len(chunk)
                    yield chunk
                    chunk = await anext(chunks, None)
        except NotFound:
            self._recorder.read(0, 1, 0)
            raise
        finally:
            if found:
                self._recorder.read(found, 0, size_bytes)

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        kept = 0
        try:
            with self._timed("put"):
                await self._inner.put(digest, chunks)
            kept = 1
        finally:
            self._recorder.written(kept, 1 - kept, digest.size_bytes if kept else 0)

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        with self._timed("missing"):
            missing = await self._inner.missing(digests)
        self._recorder.looked_up(len(digests) - len(missing), len(missing))
        return missing

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        with self._timed("get_many"):
            found = await self._inner.get_many(digests)
        sizes = [len(blob) for blob in found.values() if isinstance(blob, bytes)]
        absent = sum(isinstance(blob, NotFound) for blob in found.values())
        self._recorder.read(len(sizes), absent, sum(sizes))
        return found

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        with self._timed("put_many"):
            kept = await self._inner.put_many(blobs)
        good = [digest.size_bytes for digest, error in kept.items() if error is None]
        self._recorder.written(len(good), len(kept) - len(good), sum(good))
        return kept

    @contextmanager
    def _timed(self, method: str) -> Iterator[None]:
        begun = time.perf_counter()
        outcome = "cancelled"
        try:
            yield
            outcome = "ok"
        except GridwrightError as error:
            outcome = type(error).__name__
            raise
        finally:
            self._recorder.answered(method, outcome, time.perf_counter() - begun)
