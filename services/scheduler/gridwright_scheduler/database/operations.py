"""Statements that read operations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, Row, bindparam, or_, select, tuple_
from sqlalchemy.exc import SQLAlchemyError

from gridwright_scheduler.database.engine import Database, no_answer
from gridwright_scheduler.database.records import SNAPSHOT_COLUMNS, OperationRecord, Snapshot, snapshot_of
from gridwright_scheduler.database.schema import actions, in_state, operations
from gridwright_scheduler.queue.names import ActionId, OperationName
from gridwright_scheduler.queue.states import ActionState

T = TypeVar("T")

_OPERATIONS = select(
    *SNAPSHOT_COLUMNS, operations.c.name, operations.c.created_at, operations.c.cancelled_at
).join_from(operations, actions)
_ONE = _OPERATIONS.where(operations.c.name == bindparam("name"))
_SNAPSHOTS = select(*SNAPSHOT_COLUMNS).where(actions.c.id.in_(bindparam("ids", expanding=True)))


class PageStart(NamedTuple):
    """The operation after which a page of a list begins."""

    created_at: float
    name: str


class Operations:
    """Reads operations, without waiting for whoever writes.

    Every method raises Unavailable if the database does not answer.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, name: OperationName) -> OperationRecord | None:
        """Return the operation *name*, or None if there is none."""
        row = await self._read(lambda connection: connection.execute(_ONE, {"name": name}).one_or_none())
        return None if row is None else _record(row)

    async def page(
        self,
        instance: str,
        *,
        states: Collection[ActionState],
        after: PageStart | None,
        limit: int,
    ) -> Sequence[OperationRecord]:
        """Return at most *limit* operations of *instance* in *states*, oldest first, from *after* on.

        A cancelled operation counts as COMPLETED, whatever its action does.
        """
        query = _OPERATIONS.where(operations.c.instance == instance)
        if set(states) != set(ActionState):
            live = in_state(*(state for state in states)) & operations.c.cancelled_at.is_(None)
            done = ActionState.COMPLETED in states
            query = query.where(or_(live, in_state(*states), operations.c.cancelled_at.is_not(None)) if done else live)
        if after is not None:
            query = query.where(tuple_(operations.c.created_at, operations.c.name) > tuple_(*after))
        query = query.order_by(operations.c.created_at, operations.c.name).limit(limit)
        rows = await self._read(lambda connection: connection.execute(query).all())
        return [_record(row) for row in rows]

    async def snapshots(self, ids: Collection[ActionId]) -> Sequence[Snapshot]:
        """Return those of the actions *ids* that there are."""
        wanted = {"ids": list(ids)}
        rows = await self._read(lambda connection: connection.execute(_SNAPSHOTS, wanted).all())
        return [snapshot_of(row) for row in rows]

    async def _read(self, work: Callable[[Connection], T]) -> T:
        try:
            return await self._database.read(work)
        except SQLAlchemyError as error:
            raise no_answer() from error


def _record(row: Row[*tuple[Any, ...]]) -> OperationRecord:
    cancelled = row.cancelled_at is not None
    return OperationRecord(OperationName(row.name), row.created_at, cancelled, snapshot_of(row))
