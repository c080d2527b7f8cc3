"""Uploads that may break off, in the directory of a segment store."""

from __future__ import annotations

from collections.abc import AsyncIterable
from functools import partial

from gridwright.blobs.resumable import ResumableUploads, UploadName
from gridwright_cas.stores.segments.partial_upload import PartialUpload
from gridwright_cas.stores.segments.partial_uploads import PartialUploads
from gridwright_cas.stores.segments.record import MAX_PAYLOAD_BYTES
from gridwright_cas.stores.segments.uploader import Uploader
from gridwright_cas.stores.taking_up import taken_up
from gridwright_cas.stores.writing import Writing


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
        return await taken_up(self._uploader.threads, partial(self._partials.open, name, offset), offset)

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
