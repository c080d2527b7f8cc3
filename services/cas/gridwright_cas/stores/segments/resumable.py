"""Uploads that may break off, in the directory of a segment store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from concurrent.futures import Future

from gridwright.blobs.resumable import ResumableUploads, UploadName
from gridwright.errors import Aborted
from gridwright_cas.stores.segments.partial_upload import PartialUpload
from gridwright_cas.stores.segments.partial_uploads import PartialUploads
from gridwright_cas.stores.segments.record import MAX_PAYLOAD_BYTES
from gridwright_cas.stores.segments.uploader import Uploader
from gridwright_cas.stores.shielded import shielded
from gridwright_cas.stores.writing import Writing

#: A call that goes on where another broke off waits so long for that one to be noticed.
_PATIENCE_SECONDS = 5.0
_ASK_SECONDS = 0.05


class SegmentUploads(ResumableUploads):
    """Writes each upload once, into a file that becomes the blob's when it is whole."""

    def __init__(self, partials: PartialUploads, uploader: Uploader) -> None:
        self._partials = partials
        self._uploader = uploader

    async def committed_bytes(self, name: UploadName) -> int:
        return await self._uploader.in_thread(self._partials.committed_bytes, name) or 0

    async def put(self, name: UploadName, offset: int, chunks: AsyncIterable[bytes]) -> None:
        upload = await self._open(name, offset)
        writing = Writing(self._uploader.threads, upload.write, upload.hash)
        try:
            async for chunk in chunks:
                if chunk:
                    await writing.add(chunk)
                    del chunk
                else:
                    await writing.flush()
                    await self._uploader.in_thread(upload.rest)
            await writing.flush()
            await self._uploader.to_its_end(self._keep(upload))
        finally:
            await self._uploader.to_its_end(self._leave(upload, writing))

    async def forget(self, name: UploadName) -> None:
        await self._uploader.in_thread(self._partials.forget, name)

    async def _open(self, name: UploadName, offset: int) -> PartialUpload:
        """Take an upload up; at its beginning there is nothing to be waited for.

        Raises:
            Aborted, InvalidRequest, ResourceExhausted: see ``PartialUploads.open``.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + _PATIENCE_SECONDS
        while True:
            opening = self._uploader.threads.submit(self._partials.open, name, offset)
            try:
                return await shielded(asyncio.wrap_future(opening))
            except asyncio.CancelledError:
                opening.add_done_callback(_close_opened)
                raise
            except Aborted:
                if offset == 0 or loop.time() >= give_up:
                    raise
            await asyncio.sleep(_ASK_SECONDS)  # the lock is one of the kernel's, which announces nothing

    async def _keep(self, upload: PartialUpload) -> None:
        if upload.committed_bytes > MAX_PAYLOAD_BYTES:
            await self._uploader.keep(upload.name.digest, upload.finish)
            return
        blob = await self._uploader.in_thread(upload.whole)
        await self._uploader.keep_small(upload.name.digest, blob)
        await self._uploader.in_thread(upload.discard)

    async def _leave(self, upload: PartialUpload, writing: Writing) -> None:
        """Write what has come, whatever made the upload break off, and close it."""
        try:
            await writing.flush()
        finally:
            await self._uploader.in_thread(upload.close)


def _close_opened(opening: Future[PartialUpload]) -> None:
    """Leave an upload that was opened for a caller who has gone."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
