"""Statements that cancel operations, and with the last operation of an action the action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select, update

from gridwright.errors import GridwrightError, OperationNotFound
from gridwright_scheduler.database.dialect import locked
from gridwright_scheduler.database.schema import actions, in_state, operations
from gridwright_scheduler.queue.names import ActionId, BotKey, LeaseId, OperationName
from gridwright_scheduler.queue.responses import CANCELLED
from gridwright_scheduler.queue.states import ActionState


class Cancelled(NamedTuple):
    """What a cancellation changed."""

    action_id: ActionId
    #: Whether the operation was still waiting.
    changed: bool
    #: The lease that is to be taken from its bot, if nobody waits for the action any more.
    revoked: tuple[BotKey, LeaseId] | None


#: The actions are locked, so that no operation joins one that is cancelled because nobody waits for it.
_FIND = locked(
    select(
        operations.c.name,
        operations.c.action_id,
        operations.c.cancelled_at,
        actions.c.state,
        actions.c.instance,
        actions.c.bot_id,
        actions.c.lease_id,
    )
    .join(actions)
    .where(operations.c.name.in_(bindparam("names", expanding=True)))
    .order_by(actions.c.id),
    actions,
)
_STILL_WANTED = (
    select(operations.c.action_id)
    .where(operations.c.action_id.in_(bindparam("actions", expanding=True)), operations.c.cancelled_at.is_(None))
    .distinct()
)
_CANCEL_OPERATION = (
    update(operations).where(operations.c.name == bindparam("b_name")).values(cancelled_at=bindparam("b_now"))
)
#: A COMPLETING action is left alone: its work is done, and the cache may as well have it.
_CANCEL_ACTION = (
    update(actions)
    .where(actions.c.id == bindparam("b_id"), in_state(ActionState.QUEUED, ActionState.EXECUTING))
    .values(
        state=int(ActionState.COMPLETED),
        response=CANCELLED,
        succeeded=False,
        give_up_at=None,
        finished_at=bindparam("b_now"),
        version=actions.c.version + 1,
    )
)


def cancel(
    connection: Connection, names: Sequence[OperationName], *, now: float
) -> Sequence[Cancelled | GridwrightError]:
    """Cancel the operations *names*; one that is done stays as it is (checklist OPS-04 to OPS-08)."""
    rows = {row.name: row for row in connection.execute(_FIND, {"names": list(set(names))})}
    waiting = {
        OperationName(name): ActionId(row.action_id)
        for name, row in rows.items()
        if row.cancelled_at is None and row.state != ActionState.COMPLETED
    }
    abandoned = _cancel_waiting(connection, waiting, now) if waiting else set()
    answers: list[Cancelled | GridwrightError] = []
    for name in names:
        row = rows.get(name)
        if row is None:
            answers.append(OperationNotFound(name))
            continue
        action_id = ActionId(row.action_id)
        changed = waiting.pop(name, None) is not None
        revoked = None
        if changed and action_id in abandoned:
            abandoned.remove(action_id)  # one of its operations tells the bot
            if row.state == ActionState.EXECUTING:
                revoked = (BotKey(row.instance, row.bot_id), LeaseId(row.lease_id))
        answers.append(Cancelled(action_id, changed, revoked))
    return answers


def _cancel_waiting(connection: Connection, waiting: Mapping[OperationName, ActionId], now: float) -> set[ActionId]:
    """Cancel all of *waiting*, and the actions that nobody waits for any more; return these."""
    connection.execute(_CANCEL_OPERATION, [{"b_name": name, "b_now": now} for name in sorted(waiting)])
    concerned = set(waiting.values())
    wanted = set(connection.execute(_STILL_WANTED, {"actions": list(concerned)}).scalars())
    abandoned = concerned - wanted
    if abandoned:
        connection.execute(_CANCEL_ACTION, [{"b_id": one, "b_now": now} for one in sorted(abandoned)])
    return abandoned
