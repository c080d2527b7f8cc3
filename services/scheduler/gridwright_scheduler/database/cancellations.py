"""Statements that cancel operations, and with the last operation of an action the action."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, func, select, update

from gridwright.errors import GridwrightError, OperationNotFound
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


_FIND = (
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
)
_WAITING = (
    select(func.count())
    .select_from(operations)
    .where(operations.c.action_id == bindparam("action_id"), operations.c.cancelled_at.is_(None))
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
    )
)


def cancel(
    connection: Connection, names: Sequence[OperationName], *, now: float
) -> Sequence[Cancelled | GridwrightError]:
    """Cancel the operations *names*; one that is done stays as it is (checklist OPS-04 to OPS-08)."""
    rows = {row.name: row for row in connection.execute(_FIND, {"names": list(set(names))})}
    answers: list[Cancelled | GridwrightError] = []
    for name in names:
        row = rows.get(name)
        if row is None:
            answers.append(OperationNotFound(name))
            continue
        action_id = ActionId(row.action_id)
        if row.cancelled_at is not None or row.state == ActionState.COMPLETED:
            answers.append(Cancelled(action_id, False, None))
            continue
        connection.execute(_CANCEL_OPERATION, {"b_name": name, "b_now": now})
        revoked = None
        if connection.execute(_WAITING, {"action_id": action_id}).scalar_one() == 0:
            connection.execute(_CANCEL_ACTION, {"b_id": action_id, "b_now": now})
            if row.state == ActionState.EXECUTING:
                revoked = (BotKey(row.instance, row.bot_id), LeaseId(row.lease_id))
        answers.append(Cancelled(action_id, True, revoked))
    return answers
