"""Why an operation is not done yet, or how it ended, for the person who waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from google.rpc import code_pb2
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from gridwright.clock import Clock
from gridwright.errors import OperationNotFound
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_scheduler.answered import AnsweredOperations
from gridwright_scheduler.database.engine import Database, no_answer
from gridwright_scheduler.database.why import Place, Standing, standing
from gridwright_scheduler.queue.names import OperationName
from gridwright_scheduler.queue.outcome import code_name
from gridwright_scheduler.queue.shortage import shortage
from gridwright_scheduler.queue.states import ActionState


class Why:
    """Explains operations, with one look into the tables each."""

    def __init__(self, database: Database, answered: AnsweredOperations, clock: Clock) -> None:
        self._database = database
        self._answered = answered
        self._clock = clock

    async def explain(self, name: str) -> Mapping[str, Any]:
        """Return how the operation *name* stands, as JSON has it; ``why`` is the whole of it in words.

        ``since`` is when the operation came to its ``stage``. Of one that is queued, ``before_in_flow``
        counts the actions of its own invocation that come before it, ``before_in_queue`` all that need
        the same of a worker.

        Raises:
            OperationNotFound: there is none, or none any more.
            Unavailable: the database is.
        """
        operation = OperationName(name)
        if record := self._answered.find(operation):
            ended = f"it was answered at once, and never queued: {_ending(record.snapshot.response)}"
            return _answer(operation, "completed", record.created_at, ended)
        found = None if "\0" in name else await self._read(operation)
        if found is None:
            raise OperationNotFound(name)
        return self._explained(operation, found)

    async def _read(self, name: OperationName) -> Standing | None:
        try:
            return await self._database.read(partial(_standing, name))
        except SQLAlchemyError as error:
            raise no_answer() from error

    def _explained(self, name: OperationName, found: Standing) -> Mapping[str, Any]:
        if found.cancelled_at is not None:
            return _answer(name, "completed", found.cancelled_at, "it was cancelled")
        if found.place is not None:
            return self._queued(name, found, found.place)
        if found.state is ActionState.COMPLETED:
            since = found.finished_at or found.queued_at
            ended = _ending(found.response) if found.response else f"worker {found.worker} has run it"
            return _answer(name, "completed", since, ended)
        since = found.leased_at or found.queued_at
        had = f"worker {found.worker} has it{_attempt(found)}"
        if found.state is ActionState.COMPLETING:
            had = f"worker {found.worker} is through with it{_attempt(found)}, and its result is being kept"
        return _answer(name, "executing", since, f"{had}, for {self._seconds(since)}", worker=found.worker)

    def _queued(self, name: OperationName, found: Standing, place: Place) -> Mapping[str, Any]:
        lacks = shortage(found.requirements, place.workers)
        position = (
            f"it has waited for {self._seconds(found.queued_at)}; {_actions(place.before_in_queue)} that need the same "
            f"of a worker come before it, {place.before_in_flow} of them of its own build"
        )
        why = f"{position}; {lacks.why}"
        if found.failures:
            why += f"; this is attempt {len(found.failures) + 1}: {'; '.join(found.failures)}"
            if found.avoid_until is not None and found.avoid_until > self._clock.now():
                why += "; another worker than those that failed it is waited for"
        return _answer(
            name,
            "queued",
            found.queued_at,
            why,
            before_in_flow=place.before_in_flow,
            before_in_queue=place.before_in_queue,
            able_workers=lacks.able,
            free_workers=lacks.free,
            lacks_any=list(lacks.lacks_any),
            lacks_free=list(lacks.lacks_free),
            gridwright_worker_only=lacks.ours_only,
        )

    def _seconds(self, since: float) -> str:
        return f"{max(0.0, self._clock.now() - since):.1f} s"


def _standing(name: OperationName, connection: Connection) -> Standing | None:
    return standing(connection, name)


def _answer(name: OperationName, stage: str, since: float, why: str, **more: Any) -> Mapping[str, Any]:
    moment = datetime.fromtimestamp(since, UTC).isoformat(timespec="milliseconds")
    return {"operation": name, "stage": stage, "since": moment, "why": why, **more}


def _attempt(found: Standing) -> str:
    return f", at attempt {len(found.failures) + 1}" if found.failures else ""


def _actions(count: int) -> str:
    return "1 action" if count == 1 else f"{count} actions"


def _ending(response: bytes) -> str:
    """Say what became of an action that no worker has run to its end."""
    answer = pb.ExecuteResponse.FromString(response)
    if answer.status.code == code_pb2.OK:
        return "the action cache had its result" if answer.cached_result else "it succeeded"
    return f"{code_name(answer.status.code)}: {answer.status.message}"
