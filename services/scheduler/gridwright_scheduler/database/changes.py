"""Statements that find what has changed of what somebody watches."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, null, select

from gridwright_scheduler.database.dialect import OneOf
from gridwright_scheduler.database.records import SNAPSHOT_COLUMNS, Snapshot, snapshot_of
from gridwright_scheduler.database.schema import actions, operations
from gridwright_scheduler.queue.names import ActionId, OperationName
from gridwright_scheduler.queue.states import ActionState


class Newer(NamedTuple):
    """Actions that are no longer as they are known to be."""

    going_on: Sequence[Snapshot]
    #: Their snapshots are large, and read by themselves.
    completed: Sequence[ActionId]
    #: Those that there are no more: retention has deleted them, or the tables are not those that they were in.
    gone: Collection[ActionId]


_SNAPSHOTS = select(*SNAPSHOT_COLUMNS).where(OneOf(actions.c.id, "ids"))
_WITHOUT_RESPONSE = _SNAPSHOTS.with_only_columns(
    *(column for column in SNAPSHOT_COLUMNS if column is not actions.c.response), null().label("response")
)
_CANCELLED = select(operations.c.name).where(OneOf(operations.c.name, "names"), operations.c.cancelled_at.is_not(None))


def newer(connection: Connection, known: Mapping[ActionId, int]) -> Newer:
    """Return those of the actions *known*, by their versions, that have a newer one."""
    rows = connection.execute(_WITHOUT_RESPONSE, {"ids": list(known)}).all()
    changed = [row for row in rows if row.version > known[ActionId(row.id)]]
    done = [ActionId(row.id) for row in changed if row.state == ActionState.COMPLETED]
    gone = known.keys() - {ActionId(row.id) for row in rows}
    return Newer([snapshot_of(row) for row in changed if row.state != ActionState.COMPLETED], done, gone)


def snapshots(connection: Connection, ids: Collection[ActionId]) -> Sequence[Snapshot]:
    """Return those of the actions *ids* that there are."""
    return [snapshot_of(row) for row in connection.execute(_SNAPSHOTS, {"ids": list(ids)})]


def cancelled(connection: Connection, names: Collection[OperationName]) -> Sequence[OperationName]:
    """Return those of the operations *names* that were cancelled."""
    return [OperationName(name) for name in connection.execute(_CANCELLED, {"names": list(names)}).scalars()]
