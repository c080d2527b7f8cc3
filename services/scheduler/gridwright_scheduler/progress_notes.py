"""How far bots are with what they run, on its way to whoever watches it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection

from gridwright.clock import Clock
from gridwright.errors import GridwrightError
from gridwright_scheduler.board import Board
from gridwright_scheduler.database.progress import CHUNK, Stored, store_progress
from gridwright_scheduler.database.topics import Topic
from gridwright_scheduler.database.turns import Commands, Turns
from gridwright_scheduler.queue.names import LeaseId
from gridwright_scheduler.session import HeldLease

#: For so long a lease may still be a short one, of which nothing is stored.
_YOUNG_SECONDS = 1.0


class ProgressNotes:
    """Shows at once what bots tell of their work, and stores it now and then.

    Those who watch the action here see each change. Those who ask later, or watch it at
    another scheduler, see what is in the tables. Of a lease no more than the latest is kept for
    that, and of one that is over nothing, so that short actions cost no write.
    """

    def __init__(self, turns: Turns, board: Board, clock: Clock) -> None:
        self._board = board
        self._clock = clock
        self._store = Commands[Mapping[LeaseId, bytes], Stored](
            turns, _store_all, committed=self._stored, topics=_topics_of
        )
        #: What is to be stored, the oldest first; a lease leaves it at the latest when it is found to be over.
        self._noted: dict[LeaseId, HeldLease] = {}

    def note(self, held: HeldLease) -> None:
        """Show the progress of *held*, and have it stored soon."""
        self._board.publish(replace(held.leased.snapshot(), progress=held.progress))
        self._noted[held.leased.lease_id] = held

    async def store(self) -> None:
        """Store what was noted of leases that go on.

        Raises:
            Unavailable: the database is; it stays noted.
        """
        now = self._clock.now()
        told: dict[LeaseId, bytes] = {}
        for lease_id, held in list(self._noted.items()):
            if held.settling is not None:
                del self._noted[lease_id]
            elif now - held.leased.leased_at >= _YOUNG_SECONDS:
                told[lease_id] = held.progress
        leases = list(told)
        for start in range(0, len(leases), CHUNK):
            await self._store({lease_id: told[lease_id] for lease_id in leases[start : start + CHUNK]})

    def _stored(self, told: Mapping[LeaseId, bytes], stored: Stored) -> None:
        for lease_id, version in stored.versions.items():
            if held := self._noted.get(lease_id):
                held.leased = replace(held.leased, version=version)
                self._board.publish(replace(held.leased.snapshot(), progress=held.progress))
        for lease_id in (*stored.versions, *stored.idle):
            if lease_id in self._noted and self._noted[lease_id].progress == told[lease_id]:
                del self._noted[lease_id]


def _store_all(connection: Connection, commands: Sequence[Mapping[LeaseId, bytes]]) -> Sequence[Stored]:
    return [store_progress(connection, told) for told in commands]


def _topics_of(results: Sequence[Stored | GridwrightError]) -> Collection[Topic]:
    return [Topic.ACTIONS] if any(isinstance(one, Stored) and one.versions for one in results) else []
