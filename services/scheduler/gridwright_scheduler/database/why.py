"""What the tables say about how an operation stands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, and_, bindparam, case, func, select, tuple_

from gridwright_scheduler.database.platforms import requirements_of_row
from gridwright_scheduler.database.records import load_texts
from gridwright_scheduler.database.schema import actions, bots, in_state, operations, platforms
from gridwright_scheduler.queue.names import OperationName
from gridwright_scheduler.queue.platform import Offer, Requirements
from gridwright_scheduler.queue.shortage import Workers
from gridwright_scheduler.queue.states import ActionState


class Place(NamedTuple):
    """Where a queued action stands, and who could take it from there."""

    #: Actions of the same flow that come before it.
    before_in_flow: int
    #: Actions that need the same of a worker and come before it, those of its flow included.
    before_in_queue: int
    workers: Sequence[Workers]


class Standing(NamedTuple):
    """How an operation stands."""

    state: ActionState
    requirements: Requirements
    #: When the operation was cancelled, though its action may go on for others.
    cancelled_at: float | None
    queued_at: float
    leased_at: float | None
    finished_at: float | None
    #: The bot that has the action, or had it last.
    worker: str
    #: What became of earlier attempts.
    failures: tuple[str, ...]
    #: Until when it is kept from the bots that failed it.
    avoid_until: float | None
    #: A serialised ExecuteResponse, if the action ended without a result.
    response: bytes
    #: Of a queued action.
    place: Place | None


_STANDING = (
    select(
        operations.c.cancelled_at,
        actions.c.id,
        actions.c.instance,
        actions.c.state,
        actions.c.platform_id,
        actions.c.priority,
        actions.c.invocation,
        actions.c.tag,
        actions.c.sequence,
        actions.c.queued_at,
        actions.c.leased_at,
        actions.c.finished_at,
        actions.c.bot_id,
        actions.c.failures,
        actions.c.avoid_until,
        # A result may be large, and is not looked at.
        case((in_state(ActionState.COMPLETED) & ~actions.c.succeeded, actions.c.response)).label("response"),
        platforms.c.properties,
        platforms.c.ours_only,
    )
    .join_from(operations, actions)
    .join(platforms)
    .where(operations.c.name == bindparam("name"))
)
_BEFORE = (
    select(
        func.count().label("in_queue"),
        func.coalesce(
            func.sum(
                case(
                    (
                        and_(
                            actions.c.priority == bindparam("priority"), actions.c.invocation == bindparam("invocation")
                        ),
                        1,
                    ),
                    else_=0,
                )
            ),
            0,
        ).label("in_flow"),
    )
    .where(in_state(ActionState.QUEUED), actions.c.platform_id == bindparam("platform"))
    .where(
        tuple_(actions.c.priority, actions.c.tag, actions.c.sequence)
        < tuple_(bindparam("priority"), bindparam("tag"), bindparam("sequence"))
    )
)
_HELD = (
    select(actions.c.bot_id, func.count().label("leases"))
    .where(in_state(ActionState.EXECUTING), actions.c.instance == bindparam("instance"))
    .group_by(actions.c.bot_id)
    .subquery()
)
_HAS_ROOM = bots.c.healthy & (func.coalesce(_HELD.c.leases, 0) < bots.c.capacity)
_WORKERS = (
    select(
        bots.c.offer,
        bots.c.ours,
        func.count().label("connected"),
        func.sum(case((bots.c.healthy, 1), else_=0)).label("healthy"),
        func.sum(case((_HAS_ROOM, 1), else_=0)).label("free"),
    )
    .outerjoin_from(bots, _HELD, _HELD.c.bot_id == bots.c.bot_id)
    .where(bots.c.instance == bindparam("instance"))
    .group_by(bots.c.offer, bots.c.ours)
)


def standing(connection: Connection, name: OperationName) -> Standing | None:
    """Return how the operation *name* stands; None: the tables do not know it."""
    row = connection.execute(_STANDING, {"name": name}).one_or_none()
    if row is None:
        return None
    state = ActionState(row.state)
    return Standing(
        state,
        requirements_of_row(row.platform_id, row.instance, row.properties, row.ours_only),
        row.cancelled_at,
        row.queued_at,
        row.leased_at,
        row.finished_at,
        row.bot_id or "",
        load_texts(row.failures),
        row.avoid_until,
        row.response or b"",
        _place(connection, row) if state is ActionState.QUEUED else None,
    )


def _place(connection: Connection, row: Row[*tuple[Any, ...]]) -> Place:
    wanted = {
        "platform": row.platform_id,
        "priority": row.priority,
        "invocation": row.invocation,
        "tag": row.tag,
        "sequence": row.sequence,
    }
    before = connection.execute(_BEFORE, wanted).one()
    workers = [
        Workers(_offer(row.instance, one.offer, one.ours), one.connected, one.healthy, one.free)
        for one in connection.execute(_WORKERS, {"instance": row.instance})
    ]
    return Place(before.in_flow, before.in_queue, workers)


def _offer(instance: str, properties: str, ours: bool) -> Offer:
    return Offer(instance, frozenset((name, value) for name, value in json.loads(properties)), ours)
