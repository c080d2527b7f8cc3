"""An upload that outlasts a restart of the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable

from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest
from gridwright.errors import Unavailable

_TRIES = 6
_FIRST_DELAY_SECONDS = 0.1


async def put_repeatedly(store: BlobStore, digest: Digest, open_chunks: Callable[[], AsyncIterable[bytes]]) -> None:
    """Put one blob; a stream that breaks is begun again with new chunks, as no channel below can do it.

    Raises:
        Unavailable: it broke every time.
        GridwrightError: the store refuses it.
    """
    delay = _FIRST_DELAY_SECONDS
    for _ in range(_TRIES - 1):
        try:
            return await store.put(digest, open_chunks())
        except Unavailable:
            await asyncio.sleep(delay)
            delay *= 2
    await store.put(digest, open_chunks())
