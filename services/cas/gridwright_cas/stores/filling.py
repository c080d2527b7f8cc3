"""What is being fetched right now, so that nobody else fetches it as well."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

from gridwright.digest import Digest
from gridwright.errors import GridwrightError

#: Who waits for another's download gives it up when nothing has come for so long ...
_STALL_SECONDS = 0.5
#: ... or when it takes so long, since it comes no faster than its reader takes it.
_PATIENCE_SECONDS = 5.0

Found = Mapping[Digest, bytes | GridwrightError]


class Filling:
    """One reader's download of a large blob, which leaves a copy for others; a block, which ends it."""

    def __init__(self, digest: Digest, under_way: dict[Digest, Filling]) -> None:
        #: Whether the copy is there, once it has ended.
        self.succeeded = False
        self._digest = digest
        self._under_way = under_way
        self._chunks = 0
        self._ended = asyncio.Event()
        under_way[digest] = self

    def __enter__(self) -> Filling:
        return self

    def __exit__(self, *exc_info: object) -> None:
        del self._under_way[self._digest]
        self._ended.set()

    def progress(self) -> None:
        """Another chunk has come."""
        self._chunks += 1

    async def wait(self) -> bool:
        """Wait while it makes progress; return whether the copy is there."""
        for _ in range(int(_PATIENCE_SECONDS / _STALL_SECONDS)):
            before = self._chunks
            try:
                async with asyncio.timeout(_STALL_SECONDS):
                    await self._ended.wait()
                return self.succeeded
            except TimeoutError:
                if self._chunks == before:
                    break
        return False


class Fillings:
    """Makes one download of many that begin at the same time.

    A thousand actions that start at once want the same compiler: the slow store should send
    it once. Nobody waits for long: a download that breaks off, or stands still since its
    reader does, is made again by those who waited.
    """

    def __init__(self) -> None:
        self._large: dict[Digest, Filling] = {}
        self._small: dict[Digest, asyncio.Future[Found]] = {}

    async def filled_by_another(self, digest: Digest) -> bool:
        """Wait for another reader's download of a large blob, if there is one; return whether it left a copy."""
        filling = self._large.get(digest)
        return filling is not None and await filling.wait()

    def begin(self, digest: Digest) -> Filling | None:
        """Return the caller's own download of a large blob, or None if there is one already."""
        return None if digest in self._large else Filling(digest, self._large)

    async def share(
        self, digests: Collection[Digest], fetch: Callable[[Collection[Digest]], Awaitable[Found]]
    ) -> Found:
        """Fetch small blobs, but wait for those that another caller is fetching."""
        others = {digest: self._small[digest] for digest in digests if digest in self._small}
        own = [digest for digest in dict.fromkeys(digests) if digest not in others]
        found = dict(await self._fetch_first(own, fetch)) if own else {}
        for digest, answer in others.items():
            await asyncio.wait([answer])
            if not answer.cancelled() and (blob := answer.result().get(digest)) is not None:
                found[digest] = blob
        if again := [digest for digest in digests if digest not in found]:
            found |= await fetch(again)
        return found

    async def _fetch_first(
        self, digests: Collection[Digest], fetch: Callable[[Collection[Digest]], Awaitable[Found]]
    ) -> Found:
        answer: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._small |= dict.fromkeys(digests, answer)
        try:
            found = await fetch(digests)
            answer.set_result(found)
            return found
        finally:
            for digest in digests:
                del self._small[digest]
            answer.cancel()  # unless it has a result: those who wait ask for themselves
