"""What comes of an upload is counted here, and given up once the blob is there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest
from gridwright.errors import DigestMismatch

#: How often it is asked whether somebody else has completed the blob.
_ASK_BYTES = 32 * 1024 * 1024


class ThereAlready(Exception):
    """Another upload of the blob was quicker: this one need not go on (checklist BSW-12)."""


async def uploaded_bytes(
    chunks: AsyncIterator[bytes], digest: Digest, offset: int, store: BlobStore
) -> AsyncGenerator[bytes, None]:
    """Pass *chunks* of an upload on, which begins at *offset*.

    Raises:
        DigestMismatch: as soon as more comes than the blob has, so that a decompression bomb costs no more
            (checklist BSW-11, CMP-07).
        ThereAlready: the blob has come otherwise.
    """
    ask_at = offset + _ASK_BYTES
    async with aclosing(chunks):  # type: ignore[type-var]
        async for chunk in chunks:
            offset += len(chunk)
            if offset > digest.size_bytes:
                raise DigestMismatch(f"more than {digest.size_bytes} bytes came for blob {digest}")
            is_pause = not chunk
            yield chunk
            del chunk
            if (is_pause or offset >= ask_at) and offset < digest.size_bytes:
                ask_at = offset + _ASK_BYTES
                if not await store.missing({digest}):
                    raise ThereAlready
