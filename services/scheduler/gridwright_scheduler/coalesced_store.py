"""The store that asks for what several callers want at the same time in one question."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Collection, Mapping, Set

from gridwright.blobs.store import BlobStore
from gridwright.company import wait_for_company
from gridwright.digest import Digest
from gridwright.errors import GridwrightError

#: While so many questions are under way, the next one gathers.
_MAX_QUESTIONS = 1


class CoalescedStore(BlobStore):
    """Gathers concurrent ``get_many`` calls into few of the store behind it.

    A build tool sends hundreds of Execute calls at once, and each needs two small
    documents: one by one, the round trips would cost more than all the rest.
    """

    def __init__(self, inner: BlobStore) -> None:
        self._inner = inner
        self._slots = asyncio.Semaphore(_MAX_QUESTIONS)
        #: The question that is still open to more digests, and these.
        self._open: asyncio.Task[Mapping[Digest, bytes | GridwrightError]] | None = None
        self._wanted: set[Digest] = set()

    def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        return self._inner.get(digest, offset=offset, limit=limit)

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        await self._inner.put(digest, chunks)

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        return await self._inner.missing(digests)

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        self._wanted.update(digests)
        if self._open is None:
            self._open = asyncio.create_task(self._ask())
            self._open.add_done_callback(_retrieve)
        found = await asyncio.shield(self._open)
        return {digest: found[digest] for digest in digests}

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        return await self._inner.put_many(blobs)

    @property
    def callers(self) -> int:
        """How many digests the question that is still open has."""
        return len(self._wanted)

    async def _ask(self) -> Mapping[Digest, bytes | GridwrightError]:
        async with self._slots:
            await wait_for_company(self)
            asked, self._wanted = self._wanted, set()
            self._open = None
            return await self._inner.get_many(asked)


def _retrieve(question: asyncio.Task[Mapping[Digest, bytes | GridwrightError]]) -> None:
    """Look at the outcome, so that asyncio does not complain when all who asked have gone."""
    if not question.cancelled():
        question.exception()
