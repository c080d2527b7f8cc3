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
from gridwright.telemetry.admin import Answer, StatusReport
from gridwright.wire.capabilities import CapabilitiesServicer
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.process import Process
from gridwright.wire.retrying_channel import RetryingChannel
from gridwright.wire.rpc import Channel
from gridwright.wire.server import ServerOptions, serving
from gridwright.wire.serving import Servicer
from gridwright_scheduler import upkeep
from gridwright_scheduler.action_queue import ActionQueue, QueuePolicy
from gridwright_scheduler.admission import Admission, AdmissionPolicy
from gridwright_scheduler.answered import AnsweredOperations
from gridwright_scheduler.attendance import Attendance, AttendancePolicy
from gridwright_scheduler.board import Board
from gridwright_scheduler.coalesced_store import CoalescedStore
from gridwright_scheduler.config import SchedulerFile, SchedulerSettings
from gridwright_scheduler.database.assignments import Bounds
from gridwright_scheduler.database.engine import Database
from gridwright_scheduler.database.metered import MeteredDatabase
from gridwright_scheduler.database.opening import open_database
from gridwright_scheduler.database.operations import Operations
from gridwright_scheduler.database.replicas import Replica
from gridwright_scheduler.database.topics import Topic
from gridwright_scheduler.database.turns import Turns
from gridwright_scheduler.dispatcher import Dispatcher
from gridwright_scheduler.documents import Documents
from gridwright_scheduler.finisher import Finisher
from gridwright_scheduler.heartbeat import Heartbeat
from gridwright_scheduler.interest import Interest
from gridwright_scheduler.lease_look import LeaseLook
from gridwright_scheduler.lease_reports import LeaseReports
from gridwright_scheduler.looks import Look, WatchedLook
from gridwright_scheduler.metrics import DatabaseMetrics, QueueMetrics, WorkerMetrics
from gridwright_scheduler.operation_finder import OperationFinder
from gridwright_scheduler.progress_notes import ProgressNotes
from gridwright_scheduler.queue.patience import Patience
from gridwright_scheduler.queue_keeper import QueueKeeper
from gridwright_scheduler.result_cache import ResultCache
from gridwright_scheduler.retention import Retention
from gridwright_scheduler.servicers.bots import BotsServicer, PollPolicy
from gridwright_scheduler.servicers.execution import ExecutionServicer
from gridwright_scheduler.servicers.operations import OperationsServicer
from gridwright_scheduler.sessions import Sessions
from gridwright_scheduler.shifted_clock import ShiftedClock
from gridwright_scheduler.upkeep import Duty, Upkeep
from gridwright_scheduler.watchman import Watchman
from gridwright_scheduler.why import Why

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
    #: What the admin pages answer, by the question.
    answers: Mapping[str, Answer]
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
        process.admin("scheduler", settings.scheduler.admin, scheduler.status, answers=scheduler.answers),
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
    clock = ShiftedClock(SystemClock())
    instances = Instances(settings.instances)
    board = Board()
    sessions = Sessions(clock, silence_seconds=section.bots.silence_seconds)
    metrics = QueueMetrics(process.registry)
    WorkerMetrics(process.registry, sessions)
    async with open_database(section.state) as opened:
        database = MeteredDatabase(opened, DatabaseMetrics(process.registry))
        replica = Replica()
        heartbeat = Heartbeat(database, replica, clock)
        turns = Turns(database, replica)
        operations = Operations(database)
        dispatcher = Dispatcher(turns, sessions, board, _bounds(section), clock, metrics, fenced=not database.sole)
        policy = _queue_policy(section)
        queue = ActionQueue(turns, dispatcher, sessions, board, policy, clock, metrics)
        turns.add(dispatcher)  # last: what the steps before it have queued and freed, it brings together
        attendance = Attendance(queue, turns, sessions, _attendance_policy(section, database), clock)
        progress = ProgressNotes(turns, board, clock)
        cache = _result_cache(section, neighbours.actioncache)
        documents = Documents(_stores(neighbours.cas, instances))
        finisher = Finisher(queue, cache, documents)
        watchman = Watchman(queue, clock, replica, policy.completing_seconds)
        patience = Patience(grace_seconds=section.no_worker_grace_seconds)
        keeper = QueueKeeper(queue, database, board, patience, replica, metrics, clock)
        retention = Retention(queue, clock, section.retention_seconds)
        rounds = Upkeep(_duties(attendance, progress, watchman, keeper, retention), replica)
        looks = {
            Topic.QUEUE: _look_at_queue(dispatcher),
            Topic.ACTIONS: Look(WatchedLook(database, board)),
            Topic.LEASES: Look(LeaseLook(database, queue, sessions, replica.id, clock)),
        }
        answered = AnsweredOperations(clock, retention_seconds=section.retention_seconds)
        interest = Interest(queue, turns, operations, board, clock, abandon_after_seconds=section.abandon_after_seconds)
        finder = OperationFinder(operations, answered, interest)
        admission = Admission(queue, cache, documents, answered, _admission_policy(section), clock, metrics)
        reports = LeaseReports(queue, progress, clock)
        polls = PollPolicy(section.bots.hold_seconds, section.bots.heartbeat_seconds)
        servicers: list[Servicer] = [
            ExecutionServicer(instances, admission, finder, board, keepalive_seconds=section.keepalive_seconds),
            OperationsServicer(instances, operations, finder, queue, board),
            BotsServicer(instances, sessions, attendance, reports, dispatcher, polls, clock),
            CapabilitiesServicer(instances, has_cache=False),
        ]

        def end_what_is_held() -> None:
            board.close()
            sessions.stop()

        def heard(topic: Topic) -> None:
            replica.alone = False
            if topic in looks:
                looks[topic].want()

        async with _running(turns.run(), finisher.run()), heartbeat.beating():
            await keeper.refuse_unknown([instance.name for instance in instances])
            await attendance.adopt_of_dead()
            async with _running(
                heartbeat.run(),
                database.listen(heard),
                rounds.run(),
                interest.run(leads=lambda: replica.leads),
                *(look.run() for look in looks.values()),
            ):
                status, why = _status(replica, sessions, board), Why(database, answered, clock)
                yield Scheduler(servicers, status, {"why": why.explain}, end_what_is_held)
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


def _duties(
    attendance: Attendance, progress: ProgressNotes, watchman: Watchman, keeper: QueueKeeper, retention: Retention
) -> Sequence[Duty]:
    return [
        Duty(attendance.end_silent, upkeep.EACH_ROUND),
        Duty(progress.store, upkeep.EACH_ROUND),
        Duty(attendance.adopt_of_dead, upkeep.SOON),
        Duty(watchman.give_up_overdue, upkeep.EACH_ROUND),
        Duty(watchman.complete_for_the_dead, upkeep.NOW_AND_THEN),
        Duty(watchman.remember_completing, upkeep.SELDOM),
        Duty(watchman.give_back_deserted, upkeep.SELDOM, of_leader=True),
        Duty(keeper.refuse_hopeless, upkeep.EACH_ROUND, of_leader=True),
        Duty(keeper.count, upkeep.NOW_AND_THEN),
        Duty(retention.forget_finished, upkeep.NOW_AND_THEN, of_leader=True),
        Duty(retention.forget_unused, upkeep.HARDLY_EVER, of_leader=True),
    ]


def _look_at_queue(dispatcher: Dispatcher) -> Look:
    async def look() -> None:
        dispatcher.suspect()

    return Look(look)


def _status(replica: Replica, sessions: Sessions, board: Board) -> StatusReport:
    async def status() -> Mapping[str, Any]:
        return {
            "replica": replica.id,
            "leads": replica.leads,
            "workers": [repr(session) for session in sessions],
            "watched": len(board.watched()),
        }

    return status


def _result_cache(section: SchedulerSettings, actioncache: Channel) -> ResultCache:
    return ResultCache(
        actioncache, lookup_seconds=section.cache_lookup_seconds, write_seconds=section.cache_write_seconds
    )


def _stores(cas: Channel, instances: Instances) -> Mapping[str, BlobStore]:
    channel = RetryingChannel(cas)
    return {
        instance.name: CoalescedStore(RemoteStore(channel, instance.name, timeout_seconds=_CAS_SECONDS))
        for instance in instances
    }


def _bounds(section: SchedulerSettings) -> Bounds:
    return Bounds(section.lease_grace_seconds, section.max_execution_seconds + section.lease_grace_seconds)


def _queue_policy(section: SchedulerSettings) -> QueuePolicy:
    return QueuePolicy(
        max_queued=section.max_queued,
        max_attempts=section.max_attempts,
        avoid_seconds=section.avoid_failed_worker_seconds,
    )


def _attendance_policy(section: SchedulerSettings, database: Database) -> AttendancePolicy:
    return AttendancePolicy(
        sole=database.sole,
        max_sessions=section.bots.max_sessions,
        reattach_seconds=section.bots.reattach_seconds,
    )


def _admission_policy(section: SchedulerSettings) -> AdmissionPolicy:
    return AdmissionPolicy(
        max_execution_seconds=section.max_execution_seconds,
        properties=section.property_rules,
        stock_function=section.bots.stock_digest_function,
    )
