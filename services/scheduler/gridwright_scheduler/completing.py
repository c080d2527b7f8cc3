"""The actions that a bot is through with, and the scheduler is not yet."""

from __future__ import annotations

import asyncio

from gridwright_scheduler.database.settlements import Settled
from gridwright_scheduler.queue.names import LeaseId


class Completing:
    """A queue in which each action stands once, and not while somebody is at work on it.

    Upkeep adds what is overdue again and again, so that it would grow without bound otherwise.
    """

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Settled] = asyncio.Queue()
        self._known: set[LeaseId] = set()

    def __len__(self) -> int:
        """Return how many wait, or are worked at."""
        return len(self._known)

    def __contains__(self, lease_id: LeaseId) -> bool:
        """Whether the action of that lease waits, or is worked at."""
        return lease_id in self._known

    def add(self, settled: Settled) -> None:
        """Have the action completed, unless it waits for that already or somebody is at it."""
        if settled.leased.lease_id not in self._known:
            self._known.add(settled.leased.lease_id)
            self._queue.put_nowait(settled)

    async def take(self) -> Settled:
        """Wait for an action; say :meth:`done` when it is completed, or was tried in vain."""
        return await self._queue.get()

    def done(self, settled: Settled) -> None:
        """Nobody is at work on the action any more."""
        self._known.discard(settled.leased.lease_id)
