"""Statements that read operations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    delete,
    false,
    func,
    literal_column,
    not_,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from gridwright_scheduler.database.dialect import locked
from gridwright_scheduler.database.engine import Database, no_answer
from gridwright_scheduler.database.records import SNAPSHOT_COLUMNS, OperationRecord, snapshot_of
from gridwright_scheduler.database.schema import IN_FLIGHT, actions, in_state, operations, request_metadata
from gridwright_scheduler.operation_filter import Condition, Field, OperationFilter
from gridwright_scheduler.queue.names import OperationName
from gridwright_scheduler.queue.states import ActionState

T = TypeVar("T")

_OPERATIONS = select(
    *SNAPSHOT_COLUMNS, operations.c.name, operations.c.created_at, operations.c.cancelled_at
).join_from(operations, actions)
_ONE = (
    _OPERATIONS.add_columns(request_metadata.c.message)
    .outerjoin(request_metadata, request_metadata.c.operation == operations.c.name)
    .where(operations.c.name == bindparam("name"))
)
_OF_INVOCATION = (
    select(operations.c.name)
    .where(
        operations.c.instance == bindparam("instance"),
        operations.c.invocation == bindparam("invocation"),
        # Said once more for the partial index.
        operations.c.invocation != literal_column("''"),
    )
    .limit(1)
)
_WAITING_OF_INVOCATION = (
    _OF_INVOCATION.join_from(operations, actions)
    .where(operations.c.cancelled_at.is_(None), IN_FLIGHT)
    .order_by(operations.c.created_at, operations.c.name)
    .limit(bindparam("limit"))
)
#: Until somebody comes back to it, the interest in an operation is as old as itself.
_UNATTENDED = (
    select(operations.c.name)
    .join_from(operations, actions)
    .where(
        IN_FLIGHT,
        operations.c.cancelled_at.is_(None),
        operations.c.attended_at < bindparam("before"),
        operations.c.created_at < bindparam("before"),
    )
    .limit(bindparam("limit"))
)
#: What another scheduler writes to at this moment it attends to, or cancels.
_ATTENDED = locked(
    select(operations.c.name).where(
        operations.c.name.in_(bindparam("names", expanding=True)),
        operations.c.attended_at < bindparam("before"),
        operations.c.created_at < bindparam("before"),
    ),
    operations,
    skip=True,
)
_ATTEND = (
    update(operations).where(operations.c.name.in_(_ATTENDED.scalar_subquery())).values(attended_at=bindparam("now"))
)
_DELETE = delete(operations).where(operations.c.name == bindparam("operation"))


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
        return None if row is None else _record(row)._replace(request_metadata=row.message or b"")

    async def page(
        self,
        instance: str,
        *,
        matching: OperationFilter,
        after: PageStart | None,
        limit: int,
    ) -> Sequence[OperationRecord]:
        """Return at most *limit* operations of *instance* that are *matching*, oldest first, from *after* on.

        A cancelled operation counts as COMPLETED, whatever its action does.
        """
        query = _OPERATIONS.where(operations.c.instance == instance, _in_states(matching.states))
        query = query.where(*(_holds(condition) for condition in matching.conditions))
        if after is not None:
            query = query.where(tuple_(operations.c.created_at, operations.c.name) > tuple_(*after))
        query = query.order_by(operations.c.created_at, operations.c.name).limit(limit)
        rows = await self._read(lambda connection: connection.execute(query).all())
        return [_record(row) for row in rows]

    async def of_invocation(self, instance: str, invocation: str, *, limit: int) -> Sequence[OperationName]:
        """Return at most *limit* of the operations of *invocation* that wait for something, oldest first."""
        wanted = {"instance": instance, "invocation": invocation, "limit": limit}
        rows = await self._read(lambda connection: connection.execute(_WAITING_OF_INVOCATION, wanted).all())
        return [OperationName(row.name) for row in rows]

    async def knows_invocation(self, instance: str, invocation: str) -> bool:
        """Return whether there is an operation of *invocation*, done or not."""
        wanted = {"instance": instance, "invocation": invocation}
        return await self._read(lambda connection: connection.execute(_OF_INVOCATION, wanted).first()) is not None

    async def unattended(self, *, before: float, limit: int) -> Sequence[OperationName]:
        """Return at most *limit* of the operations that go on, though nobody was interested in them since *before*."""
        wanted = {"before": before, "limit": limit}
        rows = await self._read(lambda connection: connection.execute(_UNATTENDED, wanted).all())
        return [OperationName(row.name) for row in rows]

    async def _read(self, work: Callable[[Connection], T]) -> T:
        try:
            return await self._database.read(work)
        except SQLAlchemyError as error:
            raise no_answer() from error


def attend(connection: Connection, names: Collection[OperationName], *, before: float, now: float) -> None:
    """Write that somebody is interested *now* in the operations *names*, where that was last written *before*."""
    connection.execute(_ATTEND, {"names": list(names), "before": before, "now": now})


def forget_operation(connection: Connection, name: OperationName) -> bool:
    """Delete the operation *name*, whose action goes on; return whether there was one (checklist OPS-09)."""
    return connection.execute(_DELETE, {"operation": name}).rowcount > 0


def _in_states(states: Collection[ActionState]) -> ColumnElement[bool]:
    """Return the condition that an operation is in one of *states*; a cancelled one is COMPLETED."""
    if set(states) == set(ActionState):
        return true()
    if not states:
        return false()
    if ActionState.COMPLETED in states:
        return or_(in_state(*states), operations.c.cancelled_at.is_not(None))
    return in_state(*states) & operations.c.cancelled_at.is_(None)


def _holds(condition: Condition) -> ColumnElement[bool]:
    holds = _equals(condition.field, condition.value)
    return holds if condition.equal else not_(holds)


def _equals(field: Field, value: str) -> ColumnElement[bool]:
    """Return the condition that *field* is *value*; it is never null."""
    match field:
        case Field.NAME:
            return operations.c.name == value
        case Field.INVOCATION_ID:
            return operations.c.invocation == value
        case Field.ACTION_DIGEST:
            hash_, _, size = value.partition("/")
            return and_(actions.c.hash == hash_, actions.c.size_bytes == int(size))
        case Field.WORKER:
            # Of an action that is queued again, bot_id is the bot that failed it.
            return and_(~in_state(ActionState.QUEUED), func.coalesce(actions.c.bot_id, "") == value)


def _record(row: Row[*tuple[Any, ...]]) -> OperationRecord:
    cancelled = row.cancelled_at is not None
    return OperationRecord(OperationName(row.name), row.created_at, cancelled, snapshot_of(row))
