"""Statements that store how far bots are with what they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select, update

from gridwright_scheduler.database.dialect import OneOf, locked
from gridwright_scheduler.database.schema import actions, in_state
from gridwright_scheduler.queue.names import LeaseId, fence_of
from gridwright_scheduler.queue.states import ActionState

#: Leases that one transaction stores the progress of at most.
CHUNK = 500


class Stored(NamedTuple):
    """What became of progress that was to be stored; what stands in neither is to be tried again."""

    #: The versions that actions have by it.
    versions: Mapping[LeaseId, int]
    #: Of which there is nothing to store: the lease is over, or the row said so before.
    idle: Sequence[LeaseId]


_LOOK = select(actions.c.id, actions.c.lease_id, actions.c.fence, actions.c.version, actions.c.progress).where(
    OneOf(actions.c.lease_id, "leases"), in_state(ActionState.EXECUTING)
)
#: Whoever has locked one of them ends it, most likely; nobody is to wait for that.
_LOCK = locked(_LOOK.order_by(actions.c.id), actions, skip=True)
_STORE = (
    update(actions)
    .where(actions.c.id == bindparam("b_id"))
    .values(progress=bindparam("b_progress"), version=actions.c.version + 1)
)


def store_progress(connection: Connection, told: Mapping[LeaseId, bytes]) -> Stored:
    """Store what bots have *told* of their leases, a serialised ExecutedActionMetadata each, if these are current.

    Bots that go from scheduler to scheduler tell each the same: to find that costs no lock.
    """
    rows = connection.execute(_LOOK, {"leases": list(told)}).all()
    differing = [
        LeaseId(row.lease_id)
        for row in rows
        if fence_of(LeaseId(row.lease_id)) == row.fence and row.progress != told[LeaseId(row.lease_id)]
    ]
    if not differing:
        return Stored({}, list(told))
    mine = connection.execute(_LOCK, {"leases": differing}).all()
    if mine:
        changes = [{"b_id": row.id, "b_progress": told[LeaseId(row.lease_id)]} for row in mine]
        connection.execute(_STORE, changes)
    versions = {LeaseId(row.lease_id): row.version + 1 for row in mine}
    return Stored(versions, [lease_id for lease_id in told if lease_id not in differing])
