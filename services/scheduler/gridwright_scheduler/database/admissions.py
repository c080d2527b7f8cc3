"""Statements that take in Execute calls."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, case, func, insert, or_, select, update

from gridwright.digest import Digest, DigestFunction
from gridwright.errors import GridwrightError, ResourceExhausted
from gridwright_scheduler.database.dialect import Upsert, locked
from gridwright_scheduler.database.records import SNAPSHOT_COLUMNS, Snapshot, snapshot_of
from gridwright_scheduler.database.schema import (
    IN_FLIGHT,
    KEY,
    LIVE_AND_SHARED,
    actions,
    in_state,
    operations,
    platforms,
    request_metadata,
)
from gridwright_scheduler.queue.names import ActionId, ActionKey, OperationName, PlatformId
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

    def __init__(self, *, max_queued: int) -> None:
        self._max_queued = max_queued
        #: At least as many as are queued; counted anew when it reaches the limit.
        self._queued_at_most = 0
        self._last_sequence = 0
        #: Bounded by the table, which upkeep clears of what no action has.
        self._known_platforms: set[PlatformId] = set()

    def admit(self, connection: Connection, requests: Sequence[Request]) -> Sequence[Admitted | GridwrightError]:
        """Carry out *requests*; those that find the queue full get ResourceExhausted."""
        room = self._room(connection, len(requests))
        found = _joinable(connection, [request for request in requests if not request.do_not_cache])
        new: list[Request] = []
        urgent: list[dict[str, object]] = []
        answers: list[Admitted | GridwrightError] = []
        for request in requests:
            equal = None if request.do_not_cache else found.get(request.key)
            if equal is not None and equal.joinable_by(request):
                answers.append(Admitted(equal.snapshot, joined=True))
                if request.priority < equal.priority:
                    urgent.append({"b_id": equal.snapshot.action_id, "b_priority": request.priority})
                    equal.priority = request.priority
                continue
            if len(new) >= room:
                answers.append(_queue_full(self._max_queued))
                continue
            new.append(request)
            snapshot = Snapshot(request.action_id, request.key.digest, ActionState.QUEUED, request.arrived_at)
            answers.append(Admitted(snapshot, joined=False))
            if not request.do_not_cache:
                found[request.key] = _Equal(snapshot, request.priority, None)
        elsewhere = self._insert(connection, new)
        if elsewhere:
            answers = [_moved(answer, elsewhere) for answer in answers]
            urgent = [_moved_row(row, elsewhere) for row in urgent]
        taken = [(request, answer) for request, answer in zip(requests, answers, strict=True) if _is_in(answer)]
        if taken:
            connection.execute(insert(operations), [_operation_row(request, answer) for request, answer in taken])
        if told := [_metadata_row(request) for request, _ in taken if request.request_metadata]:
            connection.execute(insert(request_metadata), told)
        if urgent:
            connection.execute(_RAISE_PRIORITY, urgent)
        return answers

    def _room(self, connection: Connection, wanted: int) -> int:
        if self._queued_at_most + wanted > self._max_queued:
            count = select(func.count()).select_from(actions).where(in_state(ActionState.QUEUED))
            self._queued_at_most = connection.execute(count).scalar_one()
        return self._max_queued - self._queued_at_most

    def _insert(self, connection: Connection, new: Sequence[Request]) -> Mapping[ActionId, Snapshot]:
        """Insert *new*; return, by the ids that were to be, the equal actions that others have inserted meanwhile."""
        if not new:
            return {}
        unknown = {
            platform_id(request.requirements): request.requirements
            for request in new
            if platform_id(request.requirements) not in self._known_platforms
        }
        if unknown:
            _insert_platforms(connection, unknown)
        rows = [_action_row(request, self._next_sequence()) for request in new]
        # In the order of their keys: of two transactions that insert equal actions, one waits for the other.
        rows.sort(key=_order)
        there = set(connection.execute(_INSERT_OR_JOIN.on(connection), rows).scalars())
        self._queued_at_most += len(new)
        ours = {request.action_id for request in new}
        return _snapshots_by_own_id(connection, there - ours, new) if there - ours else {}

    def committed(self, request: Request) -> None:
        """Remember what is certainly in the tables now."""
        self._known_platforms.add(platform_id(request.requirements))

    def forget_platforms(self) -> None:
        """Look again which platforms are in the table: some were deleted."""
        self._known_platforms.clear()

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
        actions.c.hash.in_(bindparam("hashes", expanding=True)),
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
_INSERT_PLATFORMS = Upsert(platforms, [platforms.c.id])
_RAISE_PRIORITY = (
    update(actions)
    .where(actions.c.id == bindparam("b_id"), actions.c.priority > bindparam("b_priority"))
    .values(priority=bindparam("b_priority"))
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


def _moved_row(row: dict[str, object], elsewhere: Mapping[ActionId, Snapshot]) -> dict[str, object]:
    snapshot = elsewhere.get(ActionId(str(row["b_id"])))
    return row if snapshot is None else {**row, "b_id": snapshot.action_id}


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[column.name] for column in KEY)


def _insert_platforms(connection: Connection, new: dict[PlatformId, Requirements]) -> None:
    rows = [
        {
            "id": identity,
            "instance": requirements.instance,
            "properties": json.dumps(requirements.properties),
            "ours_only": requirements.ours_only,
        }
        for identity, requirements in sorted(new.items())
    ]
    connection.execute(_INSERT_PLATFORMS.on(connection), rows)


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


def _action_row(request: Request, sequence: int) -> dict[str, object]:
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
        "sequence": sequence,
        "timeout_seconds": request.timeout_seconds,
        "no_retry": request.no_retry,
        "queued_at": request.arrived_at,
        "state": int(ActionState.QUEUED),
    }


def requirements_of_row(identity: str, instance: str, properties: str, ours_only: bool) -> Requirements:
    """Read a row of ``platforms``."""
    return Requirements(instance, tuple((name, value) for name, value in json.loads(properties)), ours_only)


def known_requirements(connection: Connection, ids: Iterable[str]) -> dict[PlatformId, Requirements]:
    """Return what the platforms *ids* stand for."""
    rows = connection.execute(select(platforms).where(platforms.c.id.in_(list(ids))))
    return {
        PlatformId(row.id): requirements_of_row(row.id, row.instance, row.properties, row.ours_only) for row in rows
    }
