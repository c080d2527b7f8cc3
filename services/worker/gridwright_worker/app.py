"""The worker's composition: the only file that names concrete classes."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import structlog

from gridwright.blobs.remote import RemoteStore
from gridwright.blobs.store import BlobStore
from gridwright.clock import SystemClock
from gridwright.errors import ConfigurationError, UnknownInstance
from gridwright.file_lock import lock_within
from gridwright.instances import Instance, Instances
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.devtools.remoteworkers.v1test2 import worker_pb2
from gridwright.protos.google.devtools.remoteworkers.v1test2.bots_rpc import BotsClient
from gridwright.version import VERSION
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.process import Process
from gridwright.wire.request_metadata import metadata_of
from gridwright.wire.retrying_channel import RetryingChannel
from gridwright.wire.rpc import Metadata
from gridwright_worker.bots_session import Bot, BotsSession
from gridwright_worker.config import WorkerFile, WorkerSettings
from gridwright_worker.execution.blameless import BlamelessStore
from gridwright_worker.execution.executor import Executor
from gridwright_worker.execution.hosttools import HostToolsRunner
from gridwright_worker.execution.inputs.cache import InputCache
from gridwright_worker.execution.inputs.files import CacheFiles
from gridwright_worker.execution.inputs.stage import Stager
from gridwright_worker.execution.inputs.tree import TreeLoader
from gridwright_worker.execution.local import Inputs, Limits, LocalExecutor
from gridwright_worker.execution.removal import remove
from gridwright_worker.execution.workspace import Workspace
from gridwright_worker.jobs import Jobs
from gridwright_worker.metered import MeteredExecutor, WorkerMetrics
from gridwright_worker.slots import Slots

log = structlog.get_logger(__name__)

#: How long the supervisors of a worker that was killed take to end their actions, at most.
_ROOT_SECONDS = 15.0


@asynccontextmanager
async def open_app(settings: WorkerFile, process: Process) -> AsyncIterator[None]:
    """Run the worker while the block runs; leaving drains it."""
    worker = settings.worker
    instance = _instance(settings)
    root = worker.root.absolute()
    name = worker.name or _name(root)
    headers = metadata_of(
        pb.RequestMetadata(
            tool_details=pb.ToolDetails(tool_name="gridwright-worker", tool_version=VERSION),
            correlated_invocations_id=name,
        )
    )
    async with AsyncExitStack() as stack:
        lock = await stack.enter_async_context(_sole_user(root))
        cas = await stack.enter_async_context(GrpcChannel(worker.cas or settings.endpoints.cas))
        store = BlamelessStore(RemoteStore(RetryingChannel(cas), instance.name, metadata=headers))
        cache = InputCache(CacheFiles(root / "cache"), store, max_bytes=worker.cache_max_bytes)
        await cache.open()
        inputs = Inputs(TreeLoader(store), cache, Stager(cache.path, cache.is_private))
        metrics = WorkerMetrics(process.registry, cache)
        executors = await _open_executors(worker, name, store, inputs, lock, stack)
        slots = Slots([MeteredExecutor(executor, metrics) for executor in executors], SystemClock())
        jobs = Jobs(slots, store, instance)
        stack.push_async_callback(jobs.close)
        scheduler = await stack.enter_async_context(GrpcChannel(worker.bots or settings.endpoints.scheduler))
        session = BotsSession(BotsClient(scheduler), _bot(worker, instance, name, headers), jobs)

        async def status() -> Mapping[str, object]:
            statistics = cache.statistics()
            return {
                "worker": name,
                "instance": instance.name,
                "bots": session.status(),
                "slots": slots.status(),
                "cache": {field: getattr(statistics, field) for field in statistics.__slots__},
            }

        await stack.enter_async_context(process.admin("worker", worker.admin, status))
        session.start().add_done_callback(lambda _: process.stopping.set())
        stack.push_async_callback(session.drain, worker.drain_seconds)
        yield


async def _open_executors(
    worker: WorkerSettings, name: str, store: BlobStore, inputs: Inputs, lock: int, stack: AsyncExitStack
) -> list[Executor]:
    root = worker.root.absolute()
    limits = Limits(worker.default_timeout_seconds, worker.max_timeout_seconds)
    fixed_path = root / "slot"
    fixed_path.mkdir(exist_ok=True)
    _remove_strays(root / "slots", worker.slots)
    executors: list[Executor] = []
    for number in range(worker.slots):
        workspace = Workspace(root / "slots" / str(number))
        workspace.clear()
        runner = HostToolsRunner(
            workspace, fixed_path=fixed_path, kill_grace_seconds=worker.kill_grace_seconds, lock=lock
        )
        executor = LocalExecutor(name, store, inputs, workspace, runner, limits, SystemClock())
        stack.push_async_callback(executor.close)
        reason = await runner.open()
        if number == 0 and reason:
            log.warning("no_fixed_path", reason=reason, actions_see=f"{root}/slots/N/build")
        elif number == 0:
            log.info("fixed_path", actions_see=f"{fixed_path}/build")
        executors.append(executor)
    return executors


def _bot(worker: WorkerSettings, instance: Instance, name: str, headers: Metadata) -> Bot:
    offered = [(key, value) for key, values in worker.platform.items() for value in values]
    return Bot(
        instance=instance.name,
        bot_id=name,
        slots=worker.slots,
        worker=worker_pb2.Worker(
            devices=[
                worker_pb2.Device(
                    handle=name, properties=[worker_pb2.Device.Property(key=key, value=value) for key, value in offered]
                )
            ],
            properties=[
                *(worker_pb2.Worker.Property(key=key, value=value) for key, value in offered),
                # Tells our scheduler that several leases, any digest function and output_files are welcome.
                worker_pb2.Worker.Property(key="gridwright", value=VERSION),
            ],
            configs=[worker_pb2.Worker.Config(key="capacity", value=str(worker.slots))],
        ),
        metadata=headers,
    )


def _instance(settings: WorkerFile) -> Instance:
    instances = Instances(settings.instances)
    try:
        return instances[settings.worker.instance if settings.worker.instance is not None else ""]
    except UnknownInstance as error:
        raise ConfigurationError(f"worker.instance: {error}") from None


def _name(root: Path) -> str:
    return f"{socket.gethostname()}-{hashlib.sha256(str(root).encode()).hexdigest()[:8]}"


@asynccontextmanager
async def _sole_user(root: Path) -> AsyncIterator[int]:
    """Hold the lock of *root*; yield its descriptor, which supervisors inherit.

    So the lock is free only when the processes of a worker that was killed are gone as well.

    Raises:
        ConfigurationError: another worker has it.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240  # nothing else runs before the start
        lock = await lock_within(root / "lock", _ROOT_SECONDS)
    except OSError as error:
        raise ConfigurationError(f"worker.root: cannot use {root}: {error.strerror}") from None
    if lock is None:
        raise ConfigurationError(f"worker.root: another worker uses {root}; choose another directory")
    try:
        yield lock
    finally:
        os.close(lock)


def _remove_strays(slots: Path, count: int) -> None:
    """Remove the directories of slots that there are no more."""
    slots.mkdir(exist_ok=True)
    for directory in slots.iterdir():
        if directory.name not in map(str, range(count)):
            remove(str(directory), str(slots))
