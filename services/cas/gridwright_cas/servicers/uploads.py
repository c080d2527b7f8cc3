"""The uploads under way in this process, and where each is kept until it is a blob."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, suppress
from typing import NamedTuple, Self

from gridwright.blobs.resumable import ResumableUploads, UploadName
from gridwright.blobs.store import CHUNK_BYTES, BlobStore, write_blob
from gridwright.errors import Aborted, DigestMismatch, GridwrightError, InvalidRequest, ResourceExhausted
from gridwright_cas.servicers.upload_memory import UploadMemory
from gridwright_cas.servicers.uploaded_bytes import ThereAlready
from gridwright_cas.stores.spool import Spool
from gridwright_cas.stores.spooled_uploads import SpooledUploads

#: A blob up to this size is collected in memory and kept in one piece, unless its upload stands still.
_SMALL_BYTES = CHUNK_BYTES
_THREADS = 8
_TIDY_SECONDS = 60.0
_RETRY_SECONDS = 1.0


class UploadBounds(NamedTuple):
    """How much uploads may take of this process."""

    #: In memory, all together.
    memory_bytes: int = 16_000_000
    #: How many may be under way.
    max_count: int = 2_000


class Uploads:
    """Keeps uploads, each as a blob if it comes to its end, else for somebody to take it up.

    A store that can take uploads up itself does (``BlobStore.resumable_uploads``). For others a copy of what comes is
    written to *spool*; without one, their uploads begin again when they have broken off.

    Args:
        stores: the store of each storage domain.
    """

    def __init__(
        self, stores: Mapping[str, BlobStore], bounds: UploadBounds | None = None, spool: Spool | None = None
    ) -> None:
        bounds = bounds or UploadBounds()
        self._stores = stores
        self._bounds = bounds
        self._memory = UploadMemory(bounds.memory_bytes)
        self._spool = spool
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="upload-spool")
        self._spooled: dict[str, SpooledUploads] = {}
        self._count = 0
        #: What must come to an end, also when its caller has gone.
        self._ending: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, stores: Mapping[str, BlobStore], bounds: UploadBounds, spool: Spool | None
    ) -> AsyncIterator[Self]:
        """Keep uploads until the block ends, which is after calls have ended and before the stores close."""
        uploads = cls(stores, bounds, spool)
        tidying = asyncio.create_task(uploads._tidy_now_and_then())
        try:
            yield uploads
        finally:
            tidying.cancel()
            await asyncio.gather(tidying, *uploads._ending, return_exceptions=True)
            for spooled in uploads._spooled.values():
                await spooled.drained()
            uploads._threads.shutdown()

    async def put(self, domain: str, name: UploadName, offset: int, chunks: AsyncIterator[bytes]) -> None:
        """Go on with an upload, as ``ResumableUploads.put`` does.

        Two calls at one upload are two uploads, if both begin at its beginning: neither is refused
        (checklist BSW-20).

        Raises:
            ResourceExhausted: too many are under way.
            ThereAlready: there is nothing to go on with, since the blob has come.
            GridwrightError: as ``ResumableUploads.put``, or what *chunks* raises.
        """
        if self._count >= self._bounds.max_count:
            raise ResourceExhausted(
                f"{self._count} uploads are under way; try again in a moment", retry_after_seconds=_RETRY_SECONDS
            )
        self._count += 1
        try:
            async with aclosing(chunks), aclosing(self._memory.bounded(chunks)) as bounded:  # type: ignore[type-var]
                if offset == 0 and name.digest.size_bytes <= _SMALL_BYTES:
                    await self._put_small(domain, name, bounded)
                else:
                    await self._put_large(domain, name, offset, bounded)
        except DigestMismatch:
            await self.forget(domain, name)
            raise
        finally:
            self._count -= 1

    async def committed_bytes(self, domain: str, name: UploadName) -> int:
        """Return how many bytes of an upload are kept."""
        resumable = self._resumable(domain, name)
        return 0 if resumable is None else await resumable.committed_bytes(name)

    async def forget(self, domain: str, name: UploadName) -> None:
        """Drop what is kept of an upload: the blob is there, or it is another."""
        if (resumable := self._resumable(domain, name)) is not None:
            await resumable.forget(name)

    def _resumable(self, domain: str, name: UploadName) -> ResumableUploads | None:
        store = self._stores[domain]
        if (resumable := store.resumable_uploads(name.digest)) is not None:
            return resumable
        if self._spool is None:
            return None
        spooled = self._spooled.get(domain)
        if spooled is None or spooled.store is not store:
            spooled = self._spooled[domain] = SpooledUploads(self._spool, store, domain, self._threads)
        return spooled

    async def _put_small(self, domain: str, name: UploadName, chunks: AsyncGenerator[bytes, None]) -> None:
        """Collect a blob and keep it; one whose upload stands still, or breaks off, goes to where large ones go."""
        pieces: list[bytes] = []
        try:
            async for chunk in chunks:
                if not chunk:
                    break
                pieces.append(chunk)
            else:
                whole, pieces = b"".join(pieces), []
                await write_blob(self._stores[domain], name.digest, whole)
                return
            begun, pieces = pieces, []
            await self._put_large(domain, name, 0, _joined(begun, chunks))
        except DigestMismatch:
            pieces = []
            raise
        finally:
            if pieces:
                await self._to_its_end(self._leave(domain, name, pieces))

    async def _put_large(self, domain: str, name: UploadName, offset: int, chunks: AsyncIterable[bytes]) -> None:
        resumable = self._resumable(domain, name)
        if resumable is None:
            if offset:
                raise InvalidRequest(
                    f"write_offset is {offset}, but nothing of this upload is here; begin at 0", field="write_offset"
                )
            await self._stores[domain].put(name.digest, chunks)
            return
        has_begun = False

        async def hearing() -> AsyncIterator[bytes]:
            nonlocal has_begun
            async for chunk in chunks:
                has_begun = True
                yield chunk
                del chunk

        try:
            await resumable.put(name, offset, hearing())
        except (Aborted, InvalidRequest) as error:
            if has_begun:
                raise
            store = self._stores[domain]
            if offset:
                if await store.missing({name.digest}):
                    raise
                # The call before was cut when it had sent all, and has come to its end since the client asked.
                raise ThereAlready from None
            if isinstance(error, InvalidRequest):
                raise
            # Somebody else is at this upload, from its beginning as well.
            await store.put(name.digest, chunks)

    async def _leave(self, domain: str, name: UploadName, pieces: Sequence[bytes]) -> None:
        """Keep what came of a small upload that broke off, if that can be."""
        resumable = self._resumable(domain, name)
        if resumable is not None:
            with suppress(_BrokenOff, GridwrightError):
                await resumable.put(name, 0, _broken_off(pieces))

    async def _to_its_end(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        await asyncio.shield(task)

    async def _tidy_now_and_then(self) -> None:
        while self._spool is not None:
            with suppress(GridwrightError):  # the disk fails, which those who write will hear
                await asyncio.get_running_loop().run_in_executor(self._threads, self._spool.tidy)
            await asyncio.sleep(_TIDY_SECONDS)


class _BrokenOff(Exception):
    """Ends an upload that nobody goes on with now."""


async def _broken_off(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
    raise _BrokenOff


async def _joined(pieces: list[bytes], chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Yield *pieces*, then a pause, as that is what has brought them here, then *chunks*."""
    while pieces:
        yield pieces.pop(0)
    yield b""
    async for chunk in chunks:
        yield chunk
        del chunk
