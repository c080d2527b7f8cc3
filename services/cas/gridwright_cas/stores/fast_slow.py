"""A fast store in front of a slow one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Collection, Mapping, Set
from contextlib import aclosing
from typing import TypeVar

from gridwright.blobs.removals import RemovalListener
from gridwright.blobs.store import CHUNK_BYTES, BlobStore, part_of
from gridwright.clock import Clock
from gridwright.digest import Digest
from gridwright.direction import Direction
from gridwright.errors import BlobNotFound, GridwrightError, OutOfRange
from gridwright_cas.stores.filling import Fillings
from gridwright_cas.stores.side_copy import SideCopy
from gridwright_cas.stores.touches import Touches

T = TypeVar("T")

#: Blobs up to this size are read from the slow store as a whole, also for a part of them.
_SMALL_BYTES = 256 * 1024
#: A fast store that takes longer for a bulk is not waited for.
_PATIENCE_SECONDS = 2.0


class FastSlowStore(BlobStore):
    """Keeps everything in *slow*, and in *fast* what was used lately.

    *slow* decides what is missing. *fast* is a convenience: whatever it does, an upload that
    *slow* has taken is taken, and what *slow* holds can be read; ``fast_failures`` counts how
    often it did not serve. What is read from *slow* as a whole fills *fast* on its way, once
    for all who want it at the same time. Uses that *fast* answers are passed on to *slow*.

    Where *slow* takes no uploads these are kept in *fast* alone, and both are asked what is missing.
    """

    def __init__(
        self,
        fast: BlobStore,
        slow: BlobStore,
        clock: Clock,
        *,
        fast_direction: Direction = Direction.BOTH,
        slow_direction: Direction = Direction.BOTH,
    ) -> None:
        self._fast = fast
        self._slow = slow
        self._fast_takes_uploads = fast_direction.takes_puts
        self._fast_takes_reads = fast_direction.takes_found
        self._slow_takes_uploads = slow_direction.takes_puts
        self._touches = Touches(clock)
        self._fillings = Fillings()
        #: How often the fast store failed, or hung, where the slow one stood in for it.
        self.fast_failures = 0

    def __repr__(self) -> str:
        return f"<FastSlowStore fast {self._fast!r}, slow {self._slow!r}, {self.fast_failures} failures of fast>"

    async def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        sent_bytes = 0
        try:
            async with aclosing(self._fast.get(digest, offset=offset, limit=limit)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    sent_bytes += len(chunk)
                    yield chunk
                    del chunk
            await self._touch([digest])
            return
        except OutOfRange:
            raise
        except GridwrightError as error:
            self._count(error)
            if sent_bytes and offset < 0:
                raise  # where that was, counted from the beginning, only the fast store knew
        if limit is not None:
            limit -= sent_bytes
        async with aclosing(self._get_slow(digest, offset + sent_bytes, limit)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield chunk
                del chunk

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        if not self._slow_takes_uploads:
            await self._fast.put(digest, chunks)
        elif not self._fast_takes_uploads:
            await self._slow.put(digest, chunks)
        else:
            heard_all = False

            async def passing() -> AsyncIterator[bytes]:
                nonlocal heard_all
                async for chunk in chunks:
                    await copy.add(chunk)
                    yield chunk
                    del chunk
                heard_all = True

            async with SideCopy(self._fast, digest) as copy:
                await self._slow.put(digest, passing())
                # A store that has the blob already may not have heard all of it.
                if heard_all and not await copy.finish():
                    self.fast_failures += 1

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        missing = await self._slow.missing(digests)
        if self._slow_takes_uploads or not missing:
            return missing
        return await self._fast.missing(missing)

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        found: dict[Digest, bytes | GridwrightError] = {}
        hits: Mapping[Digest, bytes | GridwrightError] = await self._of_fast(self._fast.get_many(digests), {})
        for digest, blob in hits.items():
            if isinstance(blob, GridwrightError):
                self._count(blob)
            else:
                found[digest] = blob
        await self._touch(found)
        if wanted := [digest for digest in digests if digest not in found]:
            found |= await self._fillings.share(wanted, self._fetch)
        return found

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        if not self._slow_takes_uploads:
            return await self._fast.put_many(blobs)
        if not self._fast_takes_uploads:
            return await self._slow.put_many(blobs)
        kept = await self._slow.put_many(blobs)
        await self._fill({digest: blobs[digest] for digest, error in kept.items() if error is None})
        return kept

    def on_removal(self, listener: RemovalListener) -> None:
        self._slow.on_removal(listener)
        if not self._slow_takes_uploads:
            self._fast.on_removal(listener)

    @property
    def announces_removals(self) -> bool:
        return self._slow.announces_removals and (self._slow_takes_uploads or self._fast.announces_removals)

    async def _get_slow(self, digest: Digest, offset: int, limit: int | None) -> AsyncIterator[bytes]:
        if not self._fast_takes_reads:
            source = self._slow.get(digest, offset=offset, limit=limit)
        elif digest.size_bytes <= _SMALL_BYTES:
            source = self._get_small(digest, offset, limit)
        elif offset == 0 and limit is None:
            source = self._get_and_fill(digest)
        else:
            source = self._slow.get(digest, offset=offset, limit=limit)
        async with aclosing(source) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield chunk
                del chunk

    async def _get_small(self, digest: Digest, offset: int, limit: int | None) -> AsyncIterator[bytes]:
        blob = (await self._fillings.share([digest], self._fetch))[digest]
        if isinstance(blob, GridwrightError):
            raise blob
        start, end = part_of(digest, len(blob), offset, limit)
        for begin in range(start, end, CHUNK_BYTES):
            yield blob[begin : min(begin + CHUNK_BYTES, end)]

    async def _get_and_fill(self, digest: Digest) -> AsyncIterator[bytes]:
        """Yield a large blob, and fill the fast store with it, unless another reader is at that."""
        if await self._fillings.filled_by_another(digest):
            try:
                async with aclosing(self._fast.get(digest)) as chunks:  # type: ignore[type-var]
                    first = await anext(chunks, b"")
                    yield first
                    del first
                    async for chunk in chunks:
                        yield chunk
                        del chunk
                return
            except BlobNotFound:
                pass  # evicted already
        async with aclosing(self._slow.get(digest)) as chunks:  # type: ignore[type-var]
            filling = self._fillings.begin(digest)
            if filling is None:
                async for chunk in chunks:
                    yield chunk
                    del chunk
                return
            with filling:
                async with SideCopy(self._fast, digest) as copy:
                    async for chunk in chunks:
                        await copy.add(chunk)
                        filling.progress()
                        yield chunk
                        del chunk
                    filling.succeeded = await copy.finish()
            self.fast_failures += not filling.succeeded

    async def _fetch(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        """Read small blobs from the slow store, and fill the fast one with them."""
        found = await self._slow.get_many(digests)
        if self._fast_takes_reads:
            await self._fill({digest: blob for digest, blob in found.items() if isinstance(blob, bytes)})
        return found

    async def _fill(self, blobs: Mapping[Digest, bytes]) -> None:
        if blobs:
            kept: Mapping[Digest, GridwrightError | None] = await self._of_fast(self._fast.put_many(blobs), {})
            self.fast_failures += sum(error is not None for error in kept.values())

    async def _of_fast(self, answer: Awaitable[T], otherwise: T) -> T:
        """Wait for the fast store, but not for long, nor at the price of an error."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await answer
        except (GridwrightError, TimeoutError):
            self.fast_failures += 1
            return otherwise

    async def _touch(self, digests: Collection[Digest]) -> None:
        """Pass uses on to the slow store; if it fails, whoever asks it will hear so."""
        self._touches.note(digests)
        if used := self._touches.take():
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await self._slow.missing(used)
            except (GridwrightError, TimeoutError):
                return

    def _count(self, error: GridwrightError) -> None:
        self.fast_failures += not isinstance(error, BlobNotFound)
