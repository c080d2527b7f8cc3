"""Statements that keep the tables in order: what is overdue, what is waiting in vain, what is old."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, select, update

from gridwright_scheduler.database.admissions import known_requirements
from gridwright_scheduler.database.dialect import locked
from gridwright_scheduler.database.records import (
    LEASED_COLUMNS,
    SNAPSHOT_COLUMNS,
    Leased,
    Snapshot,
    leased_of,
    snapshot_of,
)
from gridwright_scheduler.database.schema import actions, bots, in_state, platforms
from gridwright_scheduler.queue.names import PlatformId
from gridwright_scheduler.queue.platform import Requirements
from gridwright_scheduler.queue.states import ActionState

#: Rows that one transaction of upkeep touches at most.
CHUNK = 500


class Overdue(NamedTuple):
    """A leased action whose time is up."""

    leased: Leased
    state: ActionState
    #: Null: the action left it to the server.
    timeout_seconds: float | None
    response: bytes | None


class Waiting(NamedTuple):
    """The queued actions of one platform."""

    requirements: Requirements
    queued: int


def overdue(connection: Connection, *, now: float) -> Sequence[Overdue]:
    """Return some of the actions that their bot, or whoever completes them, has had for too long."""
    columns = (*LEASED_COLUMNS, actions.c.state, actions.c.timeout_seconds, actions.c.response)
    late = (
        select(*columns)
        .where(in_state(ActionState.EXECUTING, ActionState.COMPLETING), actions.c.give_up_at < now)
        .order_by(actions.c.give_up_at)
        .limit(CHUNK)
    )
    return [
        Overdue(leased_of(row), ActionState(row.state), row.timeout_seconds, row.response)
        for row in connection.execute(late)
    ]


def hurry_completing(connection: Connection) -> None:
    """Make every COMPLETING action overdue: whoever was at it is no more."""
    connection.execute(update(actions).where(in_state(ActionState.COMPLETING)).values(give_up_at=0.0))


def waiting(connection: Connection) -> Mapping[PlatformId, Waiting]:
    """Return how many actions are queued for each platform."""
    query = (
        select(actions.c.platform_id, func.count().label("queued"))
        .where(in_state(ActionState.QUEUED))
        .group_by(actions.c.platform_id)
    )
    counts = {PlatformId(row.platform_id): row.queued for row in connection.execute(query)}
    needs = known_requirements(connection, counts) if counts else {}
    return {platform: Waiting(needs[platform], count) for platform, count in counts.items()}


class Refusal:
    """Ends some of the actions that are queued for *platform* with *response*, at each call."""

    def __init__(self, platform: PlatformId, response: bytes, now: float) -> None:
        self._platform = platform
        self._response = response
        self._now = now

    def __call__(self, connection: Connection) -> Sequence[Snapshot]:
        """Return the actions that ended now; none when no more is queued."""
        query = locked(
            select(*SNAPSHOT_COLUMNS)
            .where(actions.c.platform_id == self._platform, in_state(ActionState.QUEUED))
            .order_by(actions.c.priority, actions.c.sequence)
            .limit(CHUNK),
            actions,
            skip=True,
        )
        found = [snapshot_of(row) for row in connection.execute(query)]
        if found:
            change = (
                update(actions)
                .where(actions.c.id == bindparam("b_id"))
                .values(state=int(ActionState.COMPLETED), response=self._response, finished_at=self._now)
            )
            connection.execute(change, [{"b_id": one.action_id} for one in found])
        return [replace(one, state=ActionState.COMPLETED, response=self._response) for one in found]


def refuse_unknown(connection: Connection, *, known: Collection[str], response: bytes, now: float) -> int:
    """End with *response* what belongs to no instance in *known*, and forget its bots; return how many actions."""
    left = (
        update(actions)
        .where(actions.c.instance.not_in(known), actions.c.state < int(ActionState.COMPLETED))
        .values(state=int(ActionState.COMPLETED), response=response, succeeded=False, give_up_at=None, finished_at=now)
    )
    connection.execute(delete(bots).where(bots.c.instance.not_in(known)))
    return connection.execute(left).rowcount


def forget_finished(connection: Connection, *, before: float) -> int:
    """Delete some of the actions that finished before *before*, with their operations; return how many."""
    old = (
        select(actions.c.id)
        .where(in_state(ActionState.COMPLETED), actions.c.finished_at < before)
        .order_by(actions.c.finished_at)
        .limit(CHUNK)
    )
    result = connection.execute(delete(actions).where(actions.c.id.in_(old.scalar_subquery())))
    return result.rowcount


def forget_platforms(connection: Connection) -> None:
    """Delete the platforms that no action has."""
    used = select(actions.c.platform_id).where(actions.c.platform_id == platforms.c.id)
    connection.execute(delete(platforms).where(~used.exists()))
