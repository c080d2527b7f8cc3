"""The way of an Execute call from its arrival to an operation."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace

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
from gridwright_scheduler.queue.property_rules import PropertyRules
from gridwright_scheduler.queue.responses import from_cache, refused
from gridwright_scheduler.queue.states import ActionState
from gridwright_scheduler.queue.validation import check_platform, no_retry, timeout_seconds
from gridwright_scheduler.result_cache import ResultCache

#: Clients send a UUID.
_MAX_INVOCATION_LENGTH = 256


@dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """What an operator can say about which actions are taken in."""

    max_execution_seconds: float
    properties: PropertyRules
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

    async def admit(
        self, operation: OperationName, key: ActionKey, request: pb.ExecuteRequest, request_metadata: bytes = b""
    ) -> Snapshot:
        """Let *operation* be what answers *request*; return how its action stands.

        *request_metadata* is what the caller said about itself, to be kept with the operation (checklist HDR-04).

        Raises:
            MissingBlobs: the Action is not in the CAS (checklist EXE-13).
            InvalidRequest: Action or Command make no sense (EXE-11, EXE-14, ACT).
            ResourceExhausted: the queue is full.
            Unavailable: the CAS, or the database, is.
        """
        arrived_at = self._clock.now()
        if not request.skip_cache_lookup:
            # Not beside the documents: each hit would cost half a read of the CAS, and a quarter more of the processor.
            result = await self._cache.lookup(key, request)
            if result is not None:
                self._metrics.cached()
                return self._answer(operation, key.digest, from_cache(result), arrived_at, request_metadata)
        document = await self._documents.action(key)
        timeout = timeout_seconds(document.action, longest_seconds=self._policy.max_execution_seconds)
        command = await self._documents.command(key, document.command_digest)
        if command is None:
            missing = await self._documents.missing_inputs(key, document)
            status = status_message(MissingBlobs(missing | {document.command_digest}))
            return self._answer(operation, key.digest, refused(status), arrived_at, request_metadata)
        wanted = self._request(operation, key, document, command, request, timeout=timeout, arrived_at=arrived_at)
        told = replace(wanted, request_metadata=request_metadata, invocation=_invocation_of(request_metadata))
        admitted = await self._queue.admit(told)
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
                rules=self._policy.properties,
                stock_function=self._policy.stock_function,
            ),
            priority=request.execution_policy.priority,
            timeout_seconds=timeout,
            no_retry=no_retry(document.action, command),
            arrived_at=arrived_at,
        )

    def _answer(
        self, operation: OperationName, digest: Digest, response: bytes, arrived_at: float, request_metadata: bytes
    ) -> Snapshot:
        """Let *operation* be done at once, with *response*."""
        snapshot = Snapshot(_new_action_id(), digest, ActionState.COMPLETED, arrived_at, response=response)
        self._answered.keep(OperationRecord(operation, arrived_at, False, snapshot, request_metadata))
        return snapshot


def _new_action_id() -> ActionId:
    return ActionId(uuid.uuid4().hex)


def _invocation_of(request_metadata: bytes) -> str:
    """Return the tool_invocation_id; nothing if there is none that a table could have in an index."""
    invocation = pb.RequestMetadata.FromString(request_metadata).tool_invocation_id if request_metadata else ""
    return "" if len(invocation) > _MAX_INVOCATION_LENGTH or "\0" in invocation else invocation
