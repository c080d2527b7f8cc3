"""Changes that arrive together are written together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from gridwright.digest import Digest
from gridwright.errors import GridwrightError, InternalError, ResourceExhausted

#: More changes than this in one group would keep another process, and our own next group, waiting.
_MAX_GROUP = 1_000
_MAX_WAITING_BYTES = 64 * 1024 * 1024
_MAX_WAITING = 100_000


class Change(NamedTuple):
    """A result that is to be kept, or removed."""

    instance: str
    digest: Digest
    #: None: it is to be removed.
    result: bytes | None
    #: Why it was not done; None: it was.
    outcome: asyncio.Future[GridwrightError | None]

    def tell(self, error: GridwrightError | None) -> None:
        """Tell whoever wants it that it is done, or why not; the first word counts."""
        if not self.outcome.done():
            self.outcome.set_result(error)


class GroupedChanges:
    """Hands changes to *write*, one group at a time: what comes while one is written forms the next.

    To bring bytes to a disk costs the same for one change as for a thousand, so nobody waits
    for a timer, and under load groups grow by themselves.

    Args:
        write: makes the changes, in their order. It tells each its outcome, or returns when all
            that it told nothing are done, or raises why they are not.
        cost_of: what a result of so many bytes takes.
        max_group_bytes: the results of a group take no more than this, unless it is a single one.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Change]], Awaitable[None]],
        *,
        cost_of: Callable[[int], int],
        max_group_bytes: int,
    ) -> None:
        self._write = write
        self._cost_of = cost_of
        self._max_group_bytes = max_group_bytes
        self._waiting: list[Change] = []
        self._waiting_bytes = 0
        self._awake = False
        self._writing: asyncio.Task[None] | None = None

    async def make(self, instance: str, results: Mapping[Digest, bytes | None]) -> None:
        """Return when these are kept, or removed where None is given.

        Raises:
            ResourceExhausted: too many wait already.
        """
        loop = asyncio.get_running_loop()
        changes = [Change(instance, digest, result, loop.create_future()) for digest, result in results.items()]
        size_bytes = sum(map(_size_of, changes))
        if self._waiting_bytes + size_bytes > _MAX_WAITING_BYTES or len(self._waiting) > _MAX_WAITING:
            raise ResourceExhausted("too many results wait to be written", retry_after_seconds=1.0)
        self._waiting += changes
        self._waiting_bytes += size_bytes
        self.wake()
        for change in changes:
            # A caller that leaves does not take back what is written together with others'.
            if error := await asyncio.shield(change.outcome):
                raise error

    def wake(self) -> None:
        """Call ``write`` soon, also without a change."""
        self._awake = True
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all(), name="writer of results")

    async def drain(self) -> None:
        """Wait until all is written."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    async def _write_all(self) -> None:
        group: Sequence[Change] = []
        try:
            while self._waiting or self._awake:
                self._awake = False
                group = self._take()
                outcome: GridwrightError | None = None
                try:
                    await self._write(group)
                except GridwrightError as error:
                    outcome = error
                for change in group:
                    change.tell(outcome)
        finally:
            # Only after something unexpected is anyone left, and nobody is to wait for ever.
            for change in [*group, *self._waiting]:
                change.tell(InternalError("the writer of results ended"))
            self._waiting, self._waiting_bytes = [], 0

    def _take(self) -> Sequence[Change]:
        count, cost_bytes = 0, 0
        for change in self._waiting[:_MAX_GROUP]:
            cost_bytes += self._cost_of(_size_of(change))
            if count and cost_bytes > self._max_group_bytes:
                break
            count += 1
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        self._waiting_bytes -= sum(map(_size_of, group))
        return group


def _size_of(change: Change) -> int:
    return 0 if change.result is None else len(change.result)
