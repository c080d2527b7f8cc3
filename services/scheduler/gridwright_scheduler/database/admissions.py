"""Statements that take in Execute calls."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, case, insert, or_, select, update

from gridwright.digest import Digest, DigestFunction
from gridwright.errors import GridwrightError, ResourceExhausted
from gridwright_scheduler.database.dialect import OneOf, Upsert, locked
from gridwright_scheduler.database.flows import next_tags
from gridwright_scheduler.database.platforms import PlatformsInUse
from gridwright_scheduler.database.queue_room import QueueRoom
from gridwright_scheduler.database.records import SNAPSHOT_COLUMNS, Snapshot, snapshot_of
from gridwright_scheduler.database.schema import (
    IN_FLIGHT,
    KEY,
    LIVE_AND_SHARED,
    actions,
    operations,
    request_metadata,
)
from gridwright_scheduler.queue.fair_order import Flow, Line
from gridwright_scheduler.queue.names import ActionId, ActionKey, OperationName
from gridwright_scheduler.queue.platform import Requirements, platform_id
from gridwright_scheduler.queue.states import ActionState

_RETRY_AFTER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Request:
    """An Execute call that neither the cache nor a check of its documents has answered."""

    operation: OperationName
    #: The id of the action, unless an equal one is joined.
    action_id: ActionId
    key: ActionKey
    #: The client's bytes.
    action: bytes
    do_not_cache: bool
    requirements: Requirements
    priority: int
    timeout_seconds: float | None
    #: When the call came: what has finished since may be joined as if it still ran.
    arrived_at: float
    #: The serialised RequestMetadata of the call; empty: none was sent.
    request_metadata: bytes = b""
    #: The tool_invocation_id of the call; empty: none was sent.
    invocation: str = ""
    #: Whether the first attempt is the only one.
    no_retry: bool = False


@dataclass(frozen=True, slots=True)
class Admitted:
    """What became of a request."""

    snapshot: Snapshot
    #: Whether it waits for an action that was there already.
    joined: bool


class Admissions:
    """Puts Execute calls into the tables: as actions of their own, or as one more operation of an equal action."""

    def __init__(self, room: QueueRoom) -> None:
        self._room = room
        self._last_sequence = 0
        self._platforms = PlatformsInUse()

    def admit(self, connection: Connection, requests: Sequence[Request]) -> Sequence[Admitted | GridwrightError]:
        """Carry out *requests*; those that find the queue full get ResourceExhausted."""
        room = self._room.left(connection, len(requests))
        found = _joinable(connection, [request for request in requests if not request.do_not_cache])
        new: list[Request] = []
        urgent: list[tuple[Request, ActionId]] = []
        answers: list[Admitted | GridwrightError] = []
        for request in requests:
            equal = None if request.do_not_cache else found.get(request.key)
            if equal is not None and equal.joinable_by(request):
                answers.append(Admitted(equal.snapshot, joined=True))
                if request.priority < equal.priority:
                    urgent.append((request, equal.snapshot.action_id))
                    equal.priority = request.priority
                continue
            if len(new) >= room:
                answers.append(_queue_full(self._room.limit))
                continue
            new.append(request)
            snapshot = Snapshot(request.action_id, request.key.digest, ActionState.QUEUED, request.arrived_at)
            answers.append(Admitted(snapshot, joined=False))
            if not request.do_not_cache:
                found[request.key] = _Equal(snapshot, request.priority, None)
        elsewhere = self._insert(connection, new)
        if elsewhere:
            answers = [_moved(answer, elsewhere) for answer in answers]
            urgent = [(request, _moved_id(action_id, elsewhere)) for request, action_id in urgent]
        taken = [(request, answer) for request, answer in zip(requests, answers, strict=True) if _is_in(answer)]
        if taken:
            connection.execute(insert(operations), [_operation_row(request, answer) for request, answer in taken])
        if told := [_metadata_row(request) for request, _ in taken if request.request_metadata]:
            connection.execute(insert(request_metadata), told)
        if urgent:
            _raise(connection, urgent)
        return answers

    def _insert(self, connection: Connection, new: Sequence[Request]) -> Mapping[ActionId, Snapshot]:
        """Insert *new*; return, by the ids that were to be, the equal actions that others have inserted meanwhile."""
        if not new:
            return {}
        latest = max(request.arrived_at for request in new)
        self._platforms.note(connection, [request.requirements for request in new], now=latest)
        tags = next_tags(connection, [_flow_of(request) for request in new])
        rows = [_action_row(request, tag, self._next_sequence()) for request, tag in zip(new, tags, strict=True)]
        # In the order of their keys: of two transactions that insert equal actions, one waits for the other.
        rows.sort(key=_order)
        there = set(connection.execute(_INSERT_OR_JOIN.on(connection), rows).scalars())
        self._room.came(len(new))
        ours = {request.action_id for request in new}
        return _snapshots_by_own_id(connection, there - ours, new) if there - ours else {}

    def committed(self, request: Request) -> None:
        """Remember what is certainly in the tables now."""
        self._platforms.committed(request.requirements, now=request.arrived_at)

    def _next_sequence(self) -> int:
        """Return a number that is larger than all before, also than those of before a restart."""
        self._last_sequence = max(self._last_sequence + 1, time.time_ns() // 1000)
        return self._last_sequence


@dataclass(slots=True)
class _Equal:
    """An action that may be joined."""

    snapshot: Snapshot
    priority: int
    finished_at: float | None

    def joinable_by(self, request: Request) -> bool:
        return self.finished_at is None or self.finished_at >= request.arrived_at


#: Locked, so that none is cancelled before the operation that joins it is there.
_JOINABLE = locked(
    select(*SNAPSHOT_COLUMNS, actions.c.instance, actions.c.priority, actions.c.finished_at)
    .where(
        OneOf(actions.c.hash, "hashes"),
        ~actions.c.do_not_cache,
        or_(IN_FLIGHT, and_(actions.c.succeeded, actions.c.finished_at >= bindparam("since"))),
    )
    .order_by(actions.c.id),
    actions,
)
#: An equal action that is there already gives its id, and stays as it is until the transaction ends.
_INSERT_OR_JOIN = Upsert(
    actions,
    KEY,
    where=LIVE_AND_SHARED,
    change=lambda refused: {
        "priority": case((refused.priority < actions.c.priority, refused.priority), else_=actions.c.priority)
    },
    returning=[actions.c.id],
)
#: In its new line it stands where the call that raises it would stand, or in front of that.
_RAISE_PRIORITY = (
    update(actions)
    .where(actions.c.id == bindparam("b_id"), actions.c.priority > bindparam("b_priority"))
    .values(
        priority=bindparam("b_priority"),
        tag=case((actions.c.tag < bindparam("b_tag"), actions.c.tag), else_=bindparam("b_tag")),
    )
)


def _joinable(connection: Connection, requests: Sequence[Request]) -> dict[ActionKey, _Equal]:
    """Return the actions that *requests* may join, those in flight before those that have finished since."""
    if not requests:
        return {}
    wanted = {
        "hashes": list({request.key.digest.hash for request in requests}),
        "since": min(request.arrived_at for request in requests),
    }
    found: dict[ActionKey, _Equal] = {}
    for row in connection.execute(_JOINABLE, wanted):
        equal = _Equal(snapshot_of(row), row.priority, row.finished_at)
        key = _key_of(row)
        if key not in found or found[key].finished_at is not None:
            found[key] = equal
    return found


def _key_of(row: Row[*tuple[Any, ...]]) -> ActionKey:
    return ActionKey(row.instance, Digest(DigestFunction(row.function), row.hash, row.size_bytes))


def _snapshots_by_own_id(
    connection: Connection, joined: Iterable[str], new: Sequence[Request]
) -> Mapping[ActionId, Snapshot]:
    query = select(*SNAPSHOT_COLUMNS, actions.c.instance).where(actions.c.id.in_(list(joined)))
    by_key = {_key_of(row): snapshot_of(row) for row in connection.execute(query)}
    return {
        request.action_id: by_key[request.key] for request in new if not request.do_not_cache and request.key in by_key
    }


def _moved(answer: Admitted | GridwrightError, elsewhere: Mapping[ActionId, Snapshot]) -> Admitted | GridwrightError:
    if isinstance(answer, Admitted) and (snapshot := elsewhere.get(answer.snapshot.action_id)) is not None:
        return Admitted(snapshot, joined=True)
    return answer


def _moved_id(action_id: ActionId, elsewhere: Mapping[ActionId, Snapshot]) -> ActionId:
    return elsewhere[action_id].action_id if action_id in elsewhere else action_id


def _raise(connection: Connection, urgent: Sequence[tuple[Request, ActionId]]) -> None:
    tags = next_tags(connection, [_flow_of(request) for request, _ in urgent])
    rows = [
        {"b_id": action_id, "b_priority": request.priority, "b_tag": tag}
        for (request, action_id), tag in zip(urgent, tags, strict=True)
    ]
    connection.execute(_RAISE_PRIORITY, rows)


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[column.name] for column in KEY)


def _is_in(answer: Admitted | GridwrightError) -> bool:
    return isinstance(answer, Admitted)


def _queue_full(max_queued: int) -> ResourceExhausted:
    return ResourceExhausted(
        f"the queue is full: {max_queued} actions wait for a worker", retry_after_seconds=_RETRY_AFTER_SECONDS
    )


def _operation_row(request: Request, answer: Admitted | GridwrightError) -> dict[str, object]:
    assert isinstance(answer, Admitted)
    return {
        "name": request.operation,
        "instance": request.key.instance,
        "action_id": answer.snapshot.action_id,
        "created_at": request.arrived_at,
        "invocation": request.invocation,
    }


def _metadata_row(request: Request) -> dict[str, object]:
    return {"operation": request.operation, "message": request.request_metadata}


def _flow_of(request: Request) -> Flow:
    return Flow(Line(request.key.instance, platform_id(request.requirements), request.priority), request.invocation)


def _action_row(request: Request, tag: float, sequence: int) -> dict[str, object]:
    digest = request.key.digest
    return {
        "id": request.action_id,
        "instance": request.key.instance,
        "function": int(digest.function),
        "hash": digest.hash,
        "size_bytes": digest.size_bytes,
        "action": request.action,
        "do_not_cache": request.do_not_cache,
        "platform_id": platform_id(request.requirements),
        "priority": request.priority,
        "invocation": request.invocation,
        "tag": tag,
        "sequence": sequence,
        "timeout_seconds": request.timeout_seconds,
        "no_retry": request.no_retry,
        "queued_at": request.arrived_at,
        "state": int(ActionState.QUEUED),
    }
