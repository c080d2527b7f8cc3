"""Uploads are refused here."""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping

from gridwright.blobs.forwarding import ForwardingStore
from gridwright.blobs.stored_frames import StoredFrames
from gridwright.digest import Digest
from gridwright.errors import GridwrightError, PermissionDenied


class ReadOnlyStore(ForwardingStore):
    """Refuses blobs that the store behind it does not have.

    For a cache that another grid fills. A client that uploads what is there already is told
    that all is well, as it would be elsewhere. Others hear PERMISSION_DENIED, which no client
    tries again, and which Bazel reports as a warning and builds on.
    """

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        """Do nothing if the blob is there.

        Raises:
            PermissionDenied: it is not.
        """
        if await self._inner.missing({digest}):
            raise _refusal(digest)

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        missing = await self._inner.missing(blobs.keys())
        return {digest: _refusal(digest) if digest in missing else None for digest in blobs}

    @property
    def stored_frames(self) -> StoredFrames:
        return self._inner.stored_frames


def _refusal(digest: Digest) -> PermissionDenied:
    return PermissionDenied(f"this store is read-only, and does not have blob {digest}")
