"""Statements that carry an action from the end of its lease to its next state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, select, update

from gridwright_scheduler.database.dialect import OneOf, locked
from gridwright_scheduler.database.platforms import known_requirements
from gridwright_scheduler.database.records import (
    LEASED_COLUMNS,
    Leased,
    Snapshot,
    dump_failures,
    dump_texts,
    leased_of,
)
from gridwright_scheduler.database.schema import actions, in_state
from gridwright_scheduler.queue.names import BotKey, LeaseId, PlatformId, ReplicaId, fence_of
from gridwright_scheduler.queue.platform import Requirements
from gridwright_scheduler.queue.settling import Facts, Outcome, concerns, settle
from gridwright_scheduler.queue.states import ActionState


class Settlement(NamedTuple):
    """What is to become of the action that has the lease *lease_id*, if it still has it."""

    lease_id: LeaseId
    outcome: Outcome
    #: Who says so, and must have the lease; None: the scheduler itself.
    bot: BotKey | None = None


class Settled(NamedTuple):
    """An action in the state that a settlement left it in."""

    leased: Leased
    snapshot: Snapshot
    #: A serialised ExecuteResponse that is not to be seen yet, of a COMPLETING action whose inputs are in order.
    response: bytes | None
    #: What it needs of a bot, of an action that is queued again.
    requirements: Requirements | None
    #: Whether its bot may still be at it.
    taken: bool = False


#: Locked, so that a lease which is the current one here still is when its end is written.
_FACTS = locked(
    select(
        *LEASED_COLUMNS,
        actions.c.state,
        actions.c.response,
        actions.c.succeeded,
        actions.c.platform_id,
        actions.c.no_retry,
    )
    .where(
        OneOf(actions.c.lease_id, "leases"),
        in_state(ActionState.EXECUTING, ActionState.COMPLETING),
    )
    .order_by(actions.c.id),
    actions,
)
#: Of those that change in nothing else, which is half of all: what they came to was stored before.
_ANNOUNCE = (
    update(actions)
    .where(OneOf(actions.c.id, "b_ids"))
    .values(
        state=int(ActionState.COMPLETED),
        give_up_at=None,
        finished_at=bindparam("b_now"),
        owner=None,
        version=actions.c.version + 1,
    )
)
_SETTLE = (
    update(actions)
    .where(actions.c.id == bindparam("b_id"))
    .values(
        state=bindparam("b_state"),
        failures=bindparam("b_failures"),
        avoid=bindparam("b_avoid"),
        avoid_until=bindparam("b_avoid_until"),
        response=bindparam("b_response"),
        succeeded=bindparam("b_succeeded"),
        give_up_at=bindparam("b_give_up_at"),
        finished_at=bindparam("b_finished_at"),
        owner=bindparam("b_owner"),
        version=actions.c.version + 1,
    )
)


def settle_all(
    connection: Connection,
    settlements: Sequence[Settlement],
    *,
    max_attempts: int,
    completing_seconds: float,
    avoid_seconds: float,
    owner: ReplicaId,
    now: float,
) -> Sequence[Settled | None]:
    """Carry *settlements* out; None for one whose lease is no longer the current one, or that comes too late.

    A lease is the current one if its name, its fence and its bot are those of the row, which stays locked. *owner* is
    who carries the actions on that become COMPLETING, *completing_seconds* how long these have before somebody looks
    after them again, *avoid_seconds* how long an action waits for another bot than those that failed it.
    """
    rows = connection.execute(_FACTS, {"leases": list({one.lease_id for one in settlements})})
    facts = {LeaseId(row.lease_id): row for row in rows}
    settled: list[Settled | None] = []
    changed: list[dict[str, object]] = []
    announced: list[str] = []
    requeued: list[tuple[int, PlatformId]] = []
    for settlement in settlements:
        row = facts.get(settlement.lease_id)
        if row is None or not _is_current(row, settlement):
            settled.append(None)
            continue
        del facts[settlement.lease_id]  # the first of two that say something of one lease has its way
        leased = leased_of(row)
        before = Facts(
            ActionState(row.state),
            leased.failures,
            row.response,
            row.succeeded,
            row.no_retry,
            leased.uncounted,
            leased.fence,
        )
        if not concerns(settlement.outcome, before, told=settlement.bot is not None):
            settled.append(_told_again(row, leased, settlement))
            continue
        after = settle(before, settlement.outcome, max_attempts=max_attempts)
        done = after.state is ActionState.COMPLETED
        only_state = done and after._replace(state=before.state) == before
        completing = after.state is ActionState.COMPLETING
        avoid = leased.avoid
        if after.failures != leased.failures and leased.bot.bot_id not in avoid:
            avoid = (*avoid, leased.bot.bot_id)
        if after.state is ActionState.QUEUED:
            requeued.append((len(settled), PlatformId(row.platform_id)))
        if only_state:
            announced.append(row.id)
        else:
            changed.append(
                {
                    "b_id": row.id,
                    "b_state": int(after.state),
                    "b_failures": dump_failures(after.failures, after.uncounted),
                    "b_avoid": dump_texts(avoid),
                    "b_avoid_until": _avoid_until(avoid, after.state, now, avoid_seconds),
                    "b_response": after.response,
                    "b_succeeded": after.succeeded,
                    "b_give_up_at": now + completing_seconds if completing else None,
                    "b_finished_at": now if done else None,
                    "b_owner": owner if completing else None,
                }
            )
        worker = "" if after.state is ActionState.QUEUED else leased.bot.bot_id
        snapshot = replace(
            leased.snapshot(),
            state=after.state,
            worker=worker,
            response=(after.response or b"") if done else b"",
            version=leased.version + 1,
        )
        taken = settlement.bot is None and before.state is ActionState.EXECUTING
        settled.append(Settled(leased, snapshot, None if done else after.response, None, taken))
    if announced:
        connection.execute(_ANNOUNCE, {"b_ids": announced, "b_now": now})
    if changed:
        connection.execute(_SETTLE, changed)
    if requeued:
        needs = known_requirements(connection, {platform for _, platform in requeued})
        for index, platform in requeued:
            one = settled[index]
            assert one is not None
            settled[index] = one._replace(requirements=needs[platform])
    return settled


def _is_current(row: Row[*tuple[Any, ...]], settlement: Settlement) -> bool:
    lease_id, _, bot = settlement
    return fence_of(lease_id) == row.fence and bot in (None, BotKey(row.instance, row.bot_id))


def _told_again(row: Row[*tuple[Any, ...]], leased: Leased, settlement: Settlement) -> Settled | None:
    """Return a COMPLETING action as it is if its bot tells of it: who heard that first may have perished over it."""
    if settlement.bot is None:
        return None
    snapshot = replace(leased.snapshot(), state=ActionState.COMPLETING)
    return Settled(leased, snapshot, row.response, None)


def _avoid_until(avoid: Sequence[str], state: ActionState, now: float, avoid_seconds: float) -> float | None:
    # Not "until now": this turn began a moment ago, and gives the action away at its end.
    return now + avoid_seconds if avoid and avoid_seconds and state is ActionState.QUEUED else None
