"""Statements that keep the tables in order: what is overdue, and what is waiting in vain."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, exists, func, or_, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from gridwright_scheduler.database.dialect import locked
from gridwright_scheduler.database.platforms import known_requirements, requirements_of_row
from gridwright_scheduler.database.records import (
    LEASED_COLUMNS,
    SNAPSHOT_COLUMNS,
    Leased,
    Snapshot,
    leased_of,
    snapshot_of,
)
from gridwright_scheduler.database.replicas import alive_since, is_dead
from gridwright_scheduler.database.schema import actions, bots, in_state, platforms
from gridwright_scheduler.queue.names import LeaseId, PlatformId, ReplicaId
from gridwright_scheduler.queue.platform import Offer, Requirements
from gridwright_scheduler.queue.states import ActionState

#: Rows that one transaction of upkeep touches at most.
CHUNK = 500


class Overdue(NamedTuple):
    """An action that its bot has had for too long."""

    leased: Leased
    #: Null: the action left it to the server.
    timeout_seconds: float | None


class Claimed(NamedTuple):
    """A COMPLETING action that is to be completed."""

    leased: Leased
    response: bytes | None


class Waiting(NamedTuple):
    """The queued actions of one platform."""

    requirements: Requirements
    queued: int


#: Said once more for the partial index.
_LEASED = in_state(ActionState.EXECUTING, ActionState.COMPLETING)
_OVERDUE = (
    select(*LEASED_COLUMNS, actions.c.timeout_seconds)
    .where(in_state(ActionState.EXECUTING), _LEASED, actions.c.give_up_at < bindparam("now"))
    .order_by(actions.c.give_up_at)
    .limit(bindparam("chunk"))
)
_LATE = actions.c.give_up_at < bindparam("now")
_ORPHANED = or_(actions.c.owner.is_(None), and_(actions.c.owner != bindparam("me"), is_dead(actions.c.owner)))


def _claim(condition: ColumnElement[bool]) -> ReturningUpdate[*tuple[Any, ...]]:
    mine = locked(
        select(actions.c.id)
        .where(in_state(ActionState.COMPLETING), _LEASED, condition)
        .order_by(actions.c.give_up_at)
        .limit(bindparam("chunk")),
        actions,
        skip=True,
    )
    return (
        update(actions)
        .where(actions.c.id.in_(mine.scalar_subquery()))
        .values(owner=bindparam("me"), give_up_at=bindparam("give_up_at"))
        .returning(*LEASED_COLUMNS, actions.c.response)
    )


_CLAIM_OVERDUE = _claim(_LATE)
_CLAIM_ORPHANS = _claim(or_(_LATE, _ORPHANED))
_COMPLETED_BY = select(actions.c.lease_id).where(
    in_state(ActionState.COMPLETING), _LEASED, actions.c.owner == bindparam("me")
)
_HURRY = (
    update(actions)
    .where(actions.c.lease_id.in_(bindparam("leases", expanding=True)), in_state(ActionState.COMPLETING))
    .values(give_up_at=0.0)
)


_DESERTED = (
    select(actions.c.lease_id)
    .where(
        in_state(ActionState.EXECUTING),
        _LEASED,
        ~exists().where(bots.c.instance == actions.c.instance, bots.c.bot_id == actions.c.bot_id),
    )
    .limit(bindparam("chunk"))
)
_QUEUED_PLATFORMS = select(platforms).where(
    exists().where(actions.c.platform_id == platforms.c.id, in_state(ActionState.QUEUED))
)
_OFFERS = select(bots.c.instance, bots.c.offer, bots.c.ours).where(bots.c.healthy).distinct()


def overdue(connection: Connection, *, now: float) -> Sequence[Overdue]:
    """Return some of the actions that their bot has had for too long."""
    rows = connection.execute(_OVERDUE, {"now": now, "chunk": CHUNK})
    return [Overdue(leased_of(row), row.timeout_seconds) for row in rows]


def deserted(connection: Connection) -> Collection[LeaseId]:
    """Return some of the leases of bots that have no session."""
    return [LeaseId(row.lease_id) for row in connection.execute(_DESERTED, {"chunk": CHUNK})]


def claim_completing(
    connection: Connection, replica: ReplicaId, *, orphans: bool, now: float, completing_seconds: float
) -> Sequence[Claimed]:
    """Let *replica* complete some of the actions that nobody has completed in time; it has *completing_seconds* now.

    With *orphans* also those whose owner is dead; to find them costs more.
    """
    claim = _CLAIM_ORPHANS if orphans else _CLAIM_OVERDUE
    wanted = {
        "now": now,
        "me": replica,
        "alive_since": alive_since(now),
        "give_up_at": now + completing_seconds,
        "chunk": CHUNK,
    }
    return [Claimed(leased_of(row), row.response) for row in connection.execute(claim, wanted)]


def completed_by(connection: Connection, replica: ReplicaId) -> Collection[LeaseId]:
    """Return what *replica* is to complete, by the leases of old."""
    rows = connection.execute(_COMPLETED_BY, {"me": replica})
    return [LeaseId(row.lease_id) for row in rows]


def hurry(connection: Connection, leases: Collection[LeaseId]) -> None:
    """Make those of the COMPLETING actions *leases* overdue."""
    connection.execute(_HURRY, {"leases": list(leases)})


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


def queued_platforms(connection: Connection) -> Mapping[PlatformId, Requirements]:
    """Return the platforms for which anything is queued."""
    return {
        PlatformId(row.id): requirements_of_row(row.id, row.instance, row.properties, row.ours_only)
        for row in connection.execute(_QUEUED_PLATFORMS)
    }


def offers(connection: Connection) -> set[Offer]:
    """Return what the bots that are well have, busy or not, whichever scheduler they talk to."""
    return {
        Offer(row.instance, frozenset((name, value) for name, value in json.loads(row.offer)), row.ours)
        for row in connection.execute(_OFFERS)
    }


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
                .values(
                    state=int(ActionState.COMPLETED),
                    version=actions.c.version + 1,
                    response=self._response,
                    finished_at=self._now,
                )
            )
            connection.execute(change, [{"b_id": one.action_id} for one in found])
        return [
            replace(one, state=ActionState.COMPLETED, response=self._response, version=one.version + 1) for one in found
        ]


def refuse_unknown(connection: Connection, *, known: Collection[str], response: bytes, now: float) -> int:
    """End with *response* what belongs to no instance in *known*, and forget its bots; return how many actions."""
    left = (
        update(actions)
        .where(actions.c.instance.not_in(known), actions.c.state < int(ActionState.COMPLETED))
        .values(
            state=int(ActionState.COMPLETED),
            version=actions.c.version + 1,
            response=response,
            succeeded=False,
            give_up_at=None,
            finished_at=now,
        )
    )
    connection.execute(delete(bots).where(bots.c.instance.not_in(known)))
    return connection.execute(left).rowcount
