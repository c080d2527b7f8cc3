"""The way of an Execute call from its arrival to an operation."""

from __future__ import annotations

import uuid
from collections.abc import Set
from dataclasses import dataclass

from gridwright.clock import Clock
from gridwright.digest import Digest, DigestFunction
from gridwright.documents import check_command
from gridwright.errors import MissingBlobs
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.statuses import status_message
from gridwright_scheduler.action_queue import ActionQueue
from gridwright_scheduler.answered import AnsweredOperations
from gridwright_scheduler.database.admissions import Request
from gridwright_scheduler.database.records import OperationRecord, Snapshot
from gridwright_scheduler.documents import ActionDocument, Documents
from gridwright_scheduler.metrics import QueueMetrics
from gridwright_scheduler.queue.names import ActionId, ActionKey, OperationName
from gridwright_scheduler.queue.platform import requirements_of
from gridwright_scheduler.queue.responses import from_cache, refused
from gridwright_scheduler.queue.states import ActionState
from gridwright_scheduler.queue.validation import check_platform, timeout_seconds
from gridwright_scheduler.result_cache import ResultCache


@dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """What an operator can say about which actions are taken in."""

    max_execution_seconds: float
    #: Platform properties that are for the runner, and not matched.
    ignored_properties: Set[str]
    #: Those of which a worker may offer more than an action asks for.
    minimum_properties: Set[str]
    #: The digest function that stock workers are run with.
    stock_function: DigestFunction


class Admission:
    """Answers Execute calls from the cache, refuses what makes no sense, and queues the rest."""

    def __init__(
        self,
        queue: ActionQueue,
        cache: ResultCache,
        documents: Documents,
        answered: AnsweredOperations,
        policy: AdmissionPolicy,
        clock: Clock,
        metrics: QueueMetrics,
    ) -> None:
        self._queue = queue
        self._cache = cache
        self._documents = documents
        self._answered = answered
        self._policy = policy
        self._clock = clock
        self._metrics = metrics

    async def admit(self, operation: OperationName, key: ActionKey, request: pb.ExecuteRequest) -> Snapshot:
        """Let *operation* be what answers *request*; return how its action stands.

        Raises:
            MissingBlobs: the Action is not in the CAS (checklist EXE-13).
            InvalidRequest: Action or Command make no sense (EXE-11, EXE-14, ACT).
            ResourceExhausted: the queue is full.
            Unavailable: the CAS, or the database, is.
        """
        arrived_at = self._clock.now()
        if not request.skip_cache_lookup:
            result = await self._cache.lookup(key, request)
            if result is not None:
                self._metrics.cached()
                return self._answer(operation, key.digest, from_cache(result), arrived_at)
        document = await self._documents.action(key)
        timeout = timeout_seconds(document.action, longest_seconds=self._policy.max_execution_seconds)
        command = await self._documents.command(key, document.command_digest)
        if command is None:
            missing = await self._documents.missing_inputs(key, document)
            status = status_message(MissingBlobs(missing | {document.command_digest}))
            return self._answer(operation, key.digest, refused(status), arrived_at)
        admitted = await self._queue.admit(
            self._request(operation, key, document, command, request, timeout=timeout, arrived_at=arrived_at)
        )
        return admitted.snapshot

    def _request(
        self,
        operation: OperationName,
        key: ActionKey,
        document: ActionDocument,
        command: pb.Command,
        request: pb.ExecuteRequest,
        *,
        timeout: float | None,
        arrived_at: float,
    ) -> Request:
        check_command(command)
        check_platform(document.action, command)
        return Request(
            operation=operation,
            action_id=_new_action_id(),
            key=key,
            action=document.data,
            do_not_cache=document.action.do_not_cache,
            requirements=requirements_of(
                key.instance,
                key.digest.function,
                document.action,
                command,
                ignored=self._policy.ignored_properties,
                minimum=self._policy.minimum_properties,
                stock_function=self._policy.stock_function,
            ),
            priority=request.execution_policy.priority,
            timeout_seconds=timeout,
            arrived_at=arrived_at,
        )

    def _answer(self, operation: OperationName, digest: Digest, response: bytes, arrived_at: float) -> Snapshot:
        """Let *operation* be done at once, with *response*."""
        snapshot = Snapshot(_new_action_id(), digest, ActionState.COMPLETED, arrived_at, response=response)
        self._answered.keep(OperationRecord(operation, arrived_at, False, snapshot))
        return snapshot


def _new_action_id() -> ActionId:
    return ActionId(uuid.uuid4().hex)
