"""Who waits to hear of which action, in this process."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from gridwright_scheduler.database.records import Snapshot
from gridwright_scheduler.queue.names import ActionId, OperationName
from gridwright_scheduler.queue.states import ActionState

K = TypeVar("K", OperationName, ActionId)


class Watch:
    """One client's eye on one operation; it sees the latest state, not every state."""

    def __init__(self, operation: OperationName) -> None:
        self.operation = operation
        #: Whether this operation was cancelled, though its action may go on for others.
        self.cancelled = False
        #: Whether there is no such action any more, so that nothing will ever be heard of it.
        self.lost = False
        self._snapshot: Snapshot | None = None
        self._changed = asyncio.Event()

    @property
    def snapshot(self) -> Snapshot:
        """The action as it is known to be; there is none before the watch is bound to one."""
        assert self._snapshot is not None
        return self._snapshot

    @property
    def bound_to(self) -> ActionId | None:
        """The action that is watched, once that is known."""
        return None if self._snapshot is None else self._snapshot.action_id

    @property
    def done(self) -> bool:
        """Whether nothing more is going to happen."""
        return self.cancelled or self.snapshot.state is ActionState.COMPLETED

    def look(self) -> None:
        """Take note that what is known now has been seen; :meth:`changed` waits for more."""
        self._changed.clear()

    def see(self, snapshot: Snapshot) -> None:
        """Take *snapshot* for the state of the action if it tells of anything new."""
        known = self._snapshot
        if known is None or _is_news(known, snapshot):
            self._snapshot = snapshot
            # That what was announced here is stored, and so has another version, is nothing to tell.
            if known is None or replace(known, version=snapshot.version) != snapshot:
                self._changed.set()

    def wake(self) -> None:
        """Let whoever waits look again."""
        self._changed.set()

    async def changed(self, seconds: float) -> None:
        """Wait until something has happened since the last :meth:`look`, *seconds* at most."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def finished(self, seconds: float, board: Board) -> None:
        """Wait until nothing more is going to happen, *seconds* at most, and not while *board* is closed."""
        try:
            async with asyncio.timeout(seconds):
                while not self.done and not board.closed:
                    self.look()
                    await self._changed.wait()
        except TimeoutError:
            return


class Board:
    """Where changes of actions are announced to the streams of their clients.

    Everything that is announced is in the database before. What other schedulers do arrives
    here, too, by looks at whatever is watched, and may come late or twice: versions tell what
    is news.
    """

    def __init__(self) -> None:
        self._by_operation: defaultdict[OperationName, set[Watch]] = defaultdict(set)
        self._by_action: defaultdict[ActionId, set[Watch]] = defaultdict(set)
        #: Set when this process stops: streams end, and their clients turn to the next one.
        self.closed = False

    @contextmanager
    def watch(self, operation: OperationName) -> Iterator[Watch]:
        """Watch *operation*, from before its action is known."""
        watch = Watch(operation)
        self._by_operation[operation].add(watch)
        try:
            yield watch
        finally:
            _discard(self._by_operation, operation, watch)
            if watch.bound_to is not None:
                _discard(self._by_action, watch.bound_to, watch)

    def bind(self, operation: OperationName, snapshot: Snapshot) -> None:
        """Tell those who watch *operation*, and do not know it yet, which action it is, and how that is."""
        for watch in self._by_operation.get(operation, ()):
            if watch.bound_to is None:
                watch.see(snapshot)
                self._by_action[snapshot.action_id].add(watch)

    def publish(self, snapshot: Snapshot) -> None:
        """Tell those who watch the action how it is now."""
        for watch in self._by_action.get(snapshot.action_id, ()):
            watch.see(snapshot)

    def lose(self, action: ActionId) -> None:
        """Tell those who watch *action* that it is gone."""
        for watch in self._by_action.get(action, ()):
            watch.lost = True
            watch.wake()

    def cancel(self, operation: OperationName) -> None:
        """Tell those who watch *operation* that it was cancelled."""
        for watch in self._by_operation.get(operation, ()):
            watch.cancelled = True
            watch.wake()

    def watched(self) -> Mapping[ActionId, int]:
        """Return the actions that somebody watches, with the oldest version that one of them knows."""
        return {action: min(watch.snapshot.version for watch in watches) for action, watches in self._by_action.items()}

    def waiting(self) -> Sequence[OperationName]:
        """Return the operations that somebody watches, and that have not come to their end as far as is known."""
        return [
            operation
            for operation, watches in self._by_operation.items()
            if any(watch.bound_to is not None and not watch.done for watch in watches)
        ]

    def attended(self) -> Collection[OperationName]:
        """Return the operations that somebody watches."""
        return list(self._by_operation)

    def close(self) -> None:
        """End all streams, and those that begin from now on."""
        self.closed = True
        for watches in self._by_operation.values():
            for watch in watches:
                watch.wake()


def _is_news(known: Snapshot, snapshot: Snapshot) -> bool:
    """Whether *snapshot* is newer; announcements and looks at the tables overtake each other."""
    if snapshot.version != known.version:
        return snapshot.version > known.version
    # A lease that goes on brings no new version when its bot tells how far it is.
    return bool(snapshot.progress) and snapshot.progress != known.progress


def _discard(index: defaultdict[K, set[Watch]], key: K, watch: Watch) -> None:
    index[key].discard(watch)
    if not index[key]:
        del index[key]
