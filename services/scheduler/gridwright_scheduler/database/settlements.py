"""Statements that carry an action from the end of its lease to its next state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select, update

from gridwright_scheduler.database.admissions import known_requirements
from gridwright_scheduler.database.dialect import locked
from gridwright_scheduler.database.records import LEASED_COLUMNS, Leased, Snapshot, dump_texts, leased_of
from gridwright_scheduler.database.schema import actions, in_state
from gridwright_scheduler.queue.names import LeaseId, PlatformId
from gridwright_scheduler.queue.platform import Requirements
from gridwright_scheduler.queue.settling import Facts, Outcome, settle
from gridwright_scheduler.queue.states import ActionState


class Settlement(NamedTuple):
    """What is to become of the action that has the lease *lease_id*, if it still has it."""

    lease_id: LeaseId
    outcome: Outcome


class Settled(NamedTuple):
    """An action in the state that a settlement left it in."""

    leased: Leased
    snapshot: Snapshot
    #: A serialised ExecuteResponse that is not to be seen yet, of a COMPLETING action whose inputs are in order.
    response: bytes | None
    #: What it needs of a bot, of an action that is queued again.
    requirements: Requirements | None


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
        actions.c.lease_id.in_(bindparam("leases", expanding=True)),
        in_state(ActionState.EXECUTING, ActionState.COMPLETING),
    )
    .order_by(actions.c.id),
    actions,
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
    )
)


def settle_all(
    connection: Connection,
    settlements: Sequence[Settlement],
    *,
    max_attempts: int,
    completing_seconds: float,
    avoid_seconds: float,
    now: float,
) -> Sequence[Settled | None]:
    """Carry *settlements* out; None for one whose lease is no longer the current one, which changes nothing.

    *completing_seconds* is how long a COMPLETING action has before somebody looks after it again,
    *avoid_seconds* how long an action waits for another bot than those that failed it.
    """
    rows = connection.execute(_FACTS, {"leases": list({one.lease_id for one in settlements})})
    facts = {LeaseId(row.lease_id): row for row in rows}
    settled: list[Settled | None] = []
    changed: list[dict[str, object]] = []
    requeued: list[tuple[int, PlatformId]] = []
    for lease_id, outcome in settlements:
        row = facts.pop(lease_id, None)  # the first of two that say something of one lease has its way
        if row is None:
            settled.append(None)
            continue
        leased = leased_of(row)
        before = Facts(ActionState(row.state), leased.failures, row.response, row.succeeded, row.no_retry)
        after = settle(before, outcome, max_attempts=max_attempts)
        done = after.state is ActionState.COMPLETED
        avoid = leased.avoid
        if after.failures != leased.failures and leased.bot.bot_id not in avoid:
            avoid = (*avoid, leased.bot.bot_id)
        if after.state is ActionState.QUEUED:
            requeued.append((len(settled), PlatformId(row.platform_id)))
        changed.append(
            {
                "b_id": row.id,
                "b_state": int(after.state),
                "b_failures": dump_texts(after.failures),
                "b_avoid": dump_texts(avoid),
                "b_avoid_until": _avoid_until(avoid, after.state, now, avoid_seconds),
                "b_response": after.response,
                "b_succeeded": after.succeeded,
                "b_give_up_at": now + completing_seconds if after.state is ActionState.COMPLETING else None,
                "b_finished_at": now if done else None,
            }
        )
        worker = "" if after.state is ActionState.QUEUED else leased.bot.bot_id
        snapshot = replace(
            leased.snapshot(), state=after.state, worker=worker, response=(after.response or b"") if done else b""
        )
        settled.append(Settled(leased, snapshot, None if done else after.response, None))
    if changed:
        connection.execute(_SETTLE, changed)
    if requeued:
        needs = known_requirements(connection, {platform for _, platform in requeued})
        for index, platform in requeued:
            one = settled[index]
            assert one is not None
            settled[index] = one._replace(requirements=needs[platform])
    return settled


def _avoid_until(avoid: Sequence[str], state: ActionState, now: float, avoid_seconds: float) -> float | None:
    # Not "until now": this turn began a moment ago, and gives the action away at its end.
    return now + avoid_seconds if avoid and avoid_seconds and state is ActionState.QUEUED else None
