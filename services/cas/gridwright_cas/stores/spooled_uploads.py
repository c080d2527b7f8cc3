"""Uploads that may break off, for stores that cannot take them up themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from gridwright.blobs.resumable import ResumableUploads, UploadName
from gridwright.blobs.store import CHUNK_BYTES, BlobStore
from gridwright.errors import Aborted, DigestMismatch
from gridwright_cas.stores.shielded import shielded
from gridwright_cas.stores.spool import Spool, SpoolFile
from gridwright_cas.stores.taking_up import taken_up
from gridwright_cas.stores.writing import Writing

#: Memory may be short for less than this; an upload that has nothing to send for so long is heard from its beginning
#: when it goes on, and until then the store holds nothing of it.
_STILL_SECONDS = 10.0


class SpooledUploads(ResumableUploads):
    """Copies into a file what passes by on its way into a store; an upload that goes on is read from there first.

    The store hears one stream from the blob's beginning, whatever it makes of it, and checks it as any other. The
    copy is not synchronised: it outlives the process, which is what it is for, but not a power cut.

    Args:
        domain: the storage domain, as several may share a spool.
    """

    def __init__(self, spool: Spool, store: BlobStore, domain: str, threads: ThreadPoolExecutor) -> None:
        self.store = store
        self._spool = spool
        self._domain = domain
        self._threads = threads
        #: Files that are being closed, also when their callers have gone.
        self._leaving: set[asyncio.Task[None]] = set()

    async def committed_bytes(self, name: UploadName) -> int:
        return min(self._spool.size_bytes(self._file_name(name)), name.digest.size_bytes)

    async def put(self, name: UploadName, offset: int, chunks: AsyncIterable[bytes]) -> None:
        file = await self._open(name, offset)
        writing = Writing(self._threads, file.append)
        source = _Source(chunks)
        try:
            while True:
                try:
                    await self.store.put(name.digest, self._copied(file, writing, source))
                    break
                except _StandsStill:
                    await source.more()
            file.discard()
        except DigestMismatch as error:
            file.discard()
            if offset == 0:
                raise
            # Our copy of its first bytes may be what is wrong.
            raise Aborted(f"{error}; start again from the beginning") from None
        finally:
            source.close()
            leaving = asyncio.create_task(self._leave(file, writing))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
            await shielded(leaving)

    async def forget(self, name: UploadName) -> None:
        self._spool.forget(self._file_name(name))

    async def drained(self) -> None:
        """Wait until all files are closed that nobody writes to."""
        await asyncio.gather(*self._leaving, return_exceptions=True)

    async def _copied(self, file: SpoolFile, writing: Writing, source: _Source) -> AsyncIterator[bytes]:
        """Yield what is there, then what comes, each piece of which is written while the store is at it."""
        loop = asyncio.get_running_loop()
        offset = file.size_bytes
        for start in range(0, offset, CHUNK_BYTES):
            yield await loop.run_in_executor(self._threads, file.read, min(CHUNK_BYTES, offset - start), start)
        while (chunk := await source.next()) is not None:
            if chunk:
                await writing.add(chunk)
                yield chunk
                del chunk
                continue
            await writing.flush()
            yield chunk
            if file.is_whole and not await source.more(_STILL_SECONDS):
                raise _StandsStill

    async def _open(self, name: UploadName, offset: int) -> SpoolFile:
        """Take an upload up; at its beginning there is nothing to be waited for.

        Raises:
            Aborted, InvalidRequest: see ``Spool.open``.
        """
        return await taken_up(self._threads, partial(self._spool.open, self._file_name(name), offset), offset)

    async def _leave(self, file: SpoolFile, writing: Writing) -> None:
        try:
            await writing.flush()
        finally:
            await asyncio.wrap_future(self._threads.submit(file.close))

    def _file_name(self, name: UploadName) -> str:
        return name._replace(compressor=f"{self._domain}\0{name.compressor}").file_name


class _StandsStill(Exception):
    """Makes a store drop what it holds of an upload; it is begun again from the file."""


class _Source:
    """The chunks of an upload, which can be waited for without taking them."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks = aiter(chunks)
        self._next: asyncio.Future[bytes | None] | None = None

    async def next(self) -> bytes | None:
        """Return the next chunk; None at the end."""
        if self._next is None:
            return await anext(self._chunks, None)
        chunk, self._next = await self._next, None
        return chunk

    async def more(self, seconds: float | None = None) -> bool:
        """Wait until there is another chunk, or the end, or for so long; return whether there is."""
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._chunks, None))
        done, _ = await asyncio.wait((self._next,), timeout=seconds)
        return bool(done)

    def close(self) -> None:
        """Wait for nothing any more."""
        if self._next is not None:
            self._next.cancel()
