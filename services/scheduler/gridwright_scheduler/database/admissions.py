"""Statements that take in Execute calls."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, func, insert, or_, select, update

from gridwright.digest import Digest, DigestFunction
from gridwright.errors import GridwrightError, ResourceExhausted
from gridwright_scheduler.database.records import SNAPSHOT_COLUMNS, Snapshot, snapshot_of
from gridwright_scheduler.database.schema import IN_FLIGHT, actions, in_state, operations, platforms
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
        self._insert(connection, new)
        taken = [(request, answer) for request, answer in zip(requests, answers, strict=True) if _is_in(answer)]
        if taken:
            connection.execute(insert(operations), [_operation_row(request, answer) for request, answer in taken])
        if urgent:
            connection.execute(_RAISE_PRIORITY, urgent)
        return answers

    def _room(self, connection: Connection, wanted: int) -> int:
        if self._queued_at_most + wanted > self._max_queued:
            count = select(func.count()).select_from(actions).where(in_state(ActionState.QUEUED))
            self._queued_at_most = connection.execute(count).scalar_one()
        return self._max_queued - self._queued_at_most

    def _insert(self, connection: Connection, new: Sequence[Request]) -> None:
        if not new:
            return
        unknown = {
            platform_id(request.requirements): request.requirements
            for request in new
            if platform_id(request.requirements) not in self._known_platforms
        }
        if unknown:
            _insert_platforms(connection, unknown)
        connection.execute(insert(actions), [_action_row(request, self._next_sequence()) for request in new])
        self._queued_at_most += len(new)

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


_JOINABLE = select(*SNAPSHOT_COLUMNS, actions.c.instance, actions.c.priority, actions.c.finished_at).where(
    actions.c.hash.in_(bindparam("hashes", expanding=True)),
    ~actions.c.do_not_cache,
    or_(IN_FLIGHT, and_(actions.c.succeeded, actions.c.finished_at >= bindparam("since"))),
)
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


def _insert_platforms(connection: Connection, new: dict[PlatformId, Requirements]) -> None:
    known = connection.execute(select(platforms.c.id).where(platforms.c.id.in_(new)))
    there = set(known.scalars())
    rows = [
        {
            "id": identity,
            "instance": requirements.instance,
            "properties": json.dumps(requirements.properties),
            "ours_only": requirements.ours_only,
        }
        for identity, requirements in new.items()
        if identity not in there
    ]
    if rows:
        connection.execute(insert(platforms), rows)


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
    }


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
