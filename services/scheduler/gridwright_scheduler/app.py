"""The composition root: the one file that names concrete classes. Read it from the bottom up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from gridwright.auth.authenticator import LoopbackAuthenticator
from gridwright.blobs.remote import RemoteStore
from gridwright.blobs.store import BlobStore
from gridwright.clock import SystemClock
from gridwright.instances import Instances
from gridwright.protos.google.devtools.remoteworkers.v1test2.bots_rpc import Bots
from gridwright.telemetry.admin import StatusReport
from gridwright.wire.capabilities import CapabilitiesServicer
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.process import Process
from gridwright.wire.retrying_channel import RetryingChannel
from gridwright.wire.rpc import Channel
from gridwright.wire.server import ServerOptions, serving
from gridwright.wire.serving import Servicer
from gridwright_scheduler.action_queue import ActionQueue, QueuePolicy
from gridwright_scheduler.admission import Admission, AdmissionPolicy
from gridwright_scheduler.answered import AnsweredOperations
from gridwright_scheduler.attendance import Attendance
from gridwright_scheduler.board import Board
from gridwright_scheduler.coalesced_store import CoalescedStore
from gridwright_scheduler.config import SchedulerFile, SchedulerSettings
from gridwright_scheduler.database import upkeep
from gridwright_scheduler.database.assignments import Bounds
from gridwright_scheduler.database.opening import open_database
from gridwright_scheduler.database.operations import Operations
from gridwright_scheduler.database.turns import Turns
from gridwright_scheduler.dispatcher import Dispatcher
from gridwright_scheduler.documents import Documents
from gridwright_scheduler.finisher import Finisher
from gridwright_scheduler.lease_reports import LeaseReports
from gridwright_scheduler.metrics import QueueMetrics
from gridwright_scheduler.operation_finder import OperationFinder
from gridwright_scheduler.queue.patience import Patience
from gridwright_scheduler.result_cache import ResultCache
from gridwright_scheduler.servicers.bots import BotsServicer, PollPolicy
from gridwright_scheduler.servicers.execution import ExecutionServicer
from gridwright_scheduler.servicers.operations import OperationsServicer
from gridwright_scheduler.sessions import Sessions
from gridwright_scheduler.upkeep import QueueKeeper, Upkeep, Watchman

#: Bounds each read of documents, retries included: a CAS that restarts is back within a few seconds.
_CAS_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The services that the scheduler calls."""

    cas: Channel
    actioncache: Channel


@dataclass(frozen=True, slots=True)
class Scheduler:
    """What the scheduler is to the outside."""

    servicers: Sequence[Servicer]
    status: StatusReport
    #: To be called before the server drains, also when a background task has failed: what is held open ends at once,
    #: and nobody is kept waiting by a scheduler that does nothing any more.
    end_what_is_held: Callable[[], None]


@asynccontextmanager
async def open_app(settings: SchedulerFile, process: Process) -> AsyncIterator[None]:
    """Serve gRPC and the admin pages while the block runs."""
    async with (
        GrpcChannel(settings.endpoints.cas) as cas,
        GrpcChannel(settings.endpoints.actioncache) as actioncache,
        open_scheduler(settings, Neighbours(cas, actioncache), process) as scheduler,
        serving(scheduler.servicers, server_options(settings, process)),
        process.admin("scheduler", settings.scheduler.admin, scheduler.status),
    ):
        try:
            yield
        finally:
            scheduler.end_what_is_held()


def server_options(settings: SchedulerFile, process: Process) -> ServerOptions:
    """Return how this service is served."""
    return ServerOptions(
        listen=[settings.scheduler.listen],
        authenticator=LoopbackAuthenticator(
            trust_network=settings.auth.trust_network, local_operators=settings.auth.local_operators
        ),
        registry=process.registry,
        drain_seconds=settings.scheduler.drain_seconds,
        unexpected_codes={Bots.service.full_name: grpc.StatusCode.UNAVAILABLE},
    )


@asynccontextmanager
async def open_scheduler(settings: SchedulerFile, neighbours: Neighbours, process: Process) -> AsyncIterator[Scheduler]:
    """Run the scheduler, without a server, while the block runs."""
    section = settings.scheduler
    clock = SystemClock()
    instances = Instances(settings.instances)
    board = Board()
    sessions = Sessions(clock, silence_seconds=section.bots.silence_seconds)
    metrics = QueueMetrics(process.registry)
    async with open_database(section.state) as database:
        turns = Turns(database)
        operations = Operations(database)
        bounds = Bounds(section.lease_grace_seconds, section.max_execution_seconds + section.lease_grace_seconds)
        dispatcher = Dispatcher(turns, sessions, board, bounds, clock)
        policy = QueuePolicy(
            max_queued=section.max_queued,
            max_attempts=section.max_attempts,
            avoid_seconds=section.avoid_failed_worker_seconds,
        )
        queue = ActionQueue(turns, dispatcher, sessions, board, policy, clock, metrics)
        turns.add(dispatcher)  # last: what the steps before it have queued and freed, it brings together
        attendance = Attendance(queue, sessions)
        cache = ResultCache(
            neighbours.actioncache,
            lookup_seconds=section.cache_lookup_seconds,
            write_seconds=section.cache_write_seconds,
        )
        documents = Documents(_stores(neighbours.cas, instances))
        finisher = Finisher(queue, cache, documents)
        keeper = QueueKeeper(
            queue,
            sessions,
            dispatcher,
            board,
            operations,
            Patience(grace_seconds=section.no_worker_grace_seconds),
            clock,
        )
        rounds = Upkeep(
            Watchman(queue, sessions, attendance, clock), keeper, metrics, retention_seconds=section.retention_seconds
        )
        answered = AnsweredOperations(clock, retention_seconds=section.retention_seconds)
        finder = OperationFinder(operations, answered)
        admission = Admission(queue, cache, documents, answered, _admission_policy(section), clock, metrics)
        polls = PollPolicy(section.bots.hold_seconds, section.bots.heartbeat_seconds)
        servicers: list[Servicer] = [
            ExecutionServicer(instances, admission, finder, board, keepalive_seconds=section.keepalive_seconds),
            OperationsServicer(instances, operations, finder, queue, board),
            BotsServicer(instances, sessions, attendance, LeaseReports(queue, board, clock), dispatcher, polls, clock),
            CapabilitiesServicer(instances, has_cache=False),
        ]

        async def status() -> Mapping[str, Any]:
            return {"workers": [repr(session) for session in sessions], "watched": len(board.watched())}

        def end_what_is_held() -> None:
            board.close()
            sessions.stop()

        async with _running(turns.run(), finisher.run()):
            await keeper.refuse_unknown([instance.name for instance in instances])
            await queue.do(upkeep.hurry_completing)
            await attendance.restore(patience_seconds=section.bots.reattach_seconds)
            async with _running(rounds.run()):
                yield Scheduler(servicers, status, end_what_is_held)
        await cache.close()


@asynccontextmanager
async def _running(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run *coroutines* beside the block; if one fails the block does, for nothing works without it."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in coroutines]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


def _stores(cas: Channel, instances: Instances) -> Mapping[str, BlobStore]:
    channel = RetryingChannel(cas)
    return {
        instance.name: CoalescedStore(RemoteStore(channel, instance.name, timeout_seconds=_CAS_SECONDS))
        for instance in instances
    }


def _admission_policy(section: SchedulerSettings) -> AdmissionPolicy:
    return AdmissionPolicy(
        max_execution_seconds=section.max_execution_seconds,
        properties=section.property_rules,
        stock_function=section.bots.stock_digest_function,
    )
