"""Statements that give queued actions to bots."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select, update

from gridwright_scheduler.database.dialect import locked
from gridwright_scheduler.database.records import LEASED_COLUMNS, Leased, leased_of
from gridwright_scheduler.database.schema import actions, in_state
from gridwright_scheduler.queue.matching import Candidate, IdleWorker, match
from gridwright_scheduler.queue.names import ActionId, LeaseId, PlatformId, in_instance
from gridwright_scheduler.queue.platform import Requirements
from gridwright_scheduler.queue.states import ActionState, sources


class Bounds(NamedTuple):
    """How long a bot may have an action."""

    #: Beyond the action's own timeout, for inputs, outputs and the way.
    grace_seconds: float
    #: Of an action that has no timeout, everything included.
    longest_seconds: float

    def of(self, timeout_seconds: float | None) -> float:
        """Return the bound for an action with this timeout."""
        return self.longest_seconds if timeout_seconds is None else timeout_seconds + self.grace_seconds


class Assigned(NamedTuple):
    """What a round of assignment came to."""

    leased: Sequence[Leased]
    #: Platforms of which nothing is queued any more.
    drained: Collection[PlatformId]


#: Bounds what a turn reads of actions that wait for another bot.
_MAX_AVOIDING = 1_000
_AVOIDING = (
    select(actions.c.id)
    .where(
        actions.c.platform_id == bindparam("platform"),
        in_state(ActionState.QUEUED),
        actions.c.avoid_until > bindparam("now"),
    )
    .limit(_MAX_AVOIDING)
)
#: Locked, so that what is leased below is still queued then; what somebody else is at is left to him.
_CANDIDATES = locked(
    select(
        *LEASED_COLUMNS,
        actions.c.priority,
        actions.c.sequence,
        actions.c.timeout_seconds,
        actions.c.avoid_until,
    )
    .where(actions.c.platform_id == bindparam("platform"), in_state(ActionState.QUEUED))
    .order_by(actions.c.priority, actions.c.sequence)
    .limit(bindparam("limit")),
    actions,
    skip=True,
)
_LEASE = (
    update(actions)
    .where(actions.c.id == bindparam("b_id"), in_state(*sources(ActionState.EXECUTING)))
    .values(
        state=int(ActionState.EXECUTING),
        lease_id=bindparam("b_lease_id"),
        bot_id=bindparam("b_bot_id"),
        leased_at=bindparam("b_now"),
        give_up_at=bindparam("b_give_up_at"),
    )
)


def assign(
    connection: Connection,
    *,
    workers: Collection[IdleWorker],
    wanted: Mapping[PlatformId, Requirements],
    bounds: Bounds,
    avoiding: bool,
    now: float,
) -> Assigned:
    """Lease queued actions of the platforms *wanted*, all of which one of *workers* serves, to *workers*.

    *avoiding* says whether there may be some that wait for another bot than those which failed them.
    """
    free = sum(worker.free_slots for worker in workers)
    candidates: list[Candidate] = []
    waiting: dict[ActionId, tuple[Leased, float | None]] = {}
    by_platform: dict[PlatformId, set[ActionId]] = {}
    for platform, requirements in wanted.items():
        limit = free
        if avoiding:  # those must not hide the ones behind them
            limit += len(connection.execute(_AVOIDING, {"platform": platform, "now": now}).all())
        rows = connection.execute(_CANDIDATES, {"platform": platform, "limit": limit}).all()
        for row in rows:
            leased = leased_of(row)
            avoid = leased.avoid if row.avoid_until is not None and row.avoid_until > now else ()
            candidates.append(Candidate(row.priority, row.sequence, leased.action_id, requirements, avoid))
            waiting[leased.action_id] = (leased, row.timeout_seconds)
        if len(rows) < limit:
            by_platform[platform] = {ActionId(row.id) for row in rows}
    result = []
    for bot, action_id in match(workers, candidates):
        leased, timeout_seconds = waiting[action_id]
        lease_id = LeaseId(in_instance(bot.instance, uuid.uuid4().hex))
        give_up_at = now + bounds.of(timeout_seconds)
        result.append(replace(leased, lease_id=lease_id, bot=bot, give_up_at=give_up_at))
    if result:
        connection.execute(_LEASE, [_lease_row(leased, now) for leased in result])
    gone = {leased.action_id for leased in result}
    return Assigned(result, [platform for platform, queued in by_platform.items() if queued <= gone])


def _lease_row(leased: Leased, now: float) -> dict[str, object]:
    return {
        "b_id": leased.action_id,
        "b_lease_id": leased.lease_id,
        "b_bot_id": leased.bot.bot_id,
        "b_now": now,
        "b_give_up_at": leased.give_up_at,
    }
