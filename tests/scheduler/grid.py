"""A scheduler under test: served over real gRPC, with fake neighbours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.longrunning import operations_pb2

from gridwright.digest import Digest, DigestFunction
from gridwright.errors import GridwrightError
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ExecutionClient
from gridwright.protos.google.longrunning.operations_rpc import OperationsClient
from gridwright.settings import validate_settings
from gridwright.telemetry.admin import Answer
from gridwright.wire.digests import digest_message
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.in_process_channel import InProcessChannel
from gridwright.wire.process import Process
from gridwright.wire.rpc import Channel
from gridwright.wire.server import serving
from gridwright_scheduler.app import Neighbours, open_scheduler, server_options
from gridwright_scheduler.config import SchedulerFile
from tests.scheduler.databases import replicas_in, settings_in
from tests.scheduler.neighbours import SHA256, FakeActionCache, FakeCas
from tests.scheduler.scripted_worker import ScriptedWorker
from tests.scheduler.wandering_channel import WanderingChannel

INSTANCES = ({"name": "main"}, {"name": "other/one"}, {"name": "cache-only", "execution": False})


class Client:
    """A build tool, as a test needs it."""

    def __init__(self, channel: Channel, cas: FakeCas, instance: str = "main") -> None:
        self._cas = cas
        self._instance = instance
        self.channel = channel
        self.execution = ExecutionClient(channel)
        self.operations = OperationsClient(channel)

    async def upload(
        self,
        *arguments: str,
        function: DigestFunction = SHA256,
        command: pb.Command | None = None,
        properties: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        **action: Any,
    ) -> Digest:
        """Put an action into the CAS that runs *arguments* (or *command*) in an empty directory."""
        if command is None:
            command = pb.Command(arguments=arguments or ("true",), output_paths=["out"])
        pairs = properties.items() if isinstance(properties, Mapping) else properties
        if pairs:
            action["platform"] = pb.Platform(properties=[{"name": name, "value": value} for name, value in pairs])
        command_digest = await self._cas.keep(command.SerializeToString(), function)
        action.setdefault("command_digest", digest_message(command_digest))
        action.setdefault("input_root_digest", digest_message(await self._cas.keep(b"", function)))
        return await self._cas.keep(pb.Action(**action).SerializeToString(), function)

    def execute(self, digest: Digest, *, timeout: float | None = 60.0, **request: Any) -> Stream:
        """Execute the action *digest*."""
        message = pb.ExecuteRequest(
            instance_name=request.pop("instance_name", self._instance),
            action_digest=digest_message(digest),
            digest_function=request.pop("digest_function", int(digest.function)),
            **request,
        )
        return Stream(self.execution.execute(message, timeout=timeout))

    def wait(self, name: str) -> Stream:
        """Wait for the operation *name*."""
        return Stream(self.execution.wait_execution(pb.WaitExecutionRequest(name=name), timeout=60.0))

    async def get(self, name: str) -> operations_pb2.Operation:
        """Return the operation *name*."""
        return await self.operations.get_operation(operations_pb2.GetOperationRequest(name=name), timeout=10.0)

    async def cancel(self, name: str) -> None:
        """Cancel the operation *name*."""
        await self.operations.cancel_operation(operations_pb2.CancelOperationRequest(name=name), timeout=10.0)


class Stream:
    """The operations of one Execute or WaitExecution call, which begins at once."""

    def __init__(self, messages: AsyncIterator[operations_pb2.Operation]) -> None:
        self.seen: list[operations_pb2.Operation] = []
        self._arrived: asyncio.Queue[operations_pb2.Operation | GridwrightError | None] = asyncio.Queue()
        self._reader = asyncio.create_task(self._read(messages))

    async def next(self) -> operations_pb2.Operation:
        """Return the next message, or raise what the call ended in."""
        message = await self._arrived.get()
        assert message is not None, "the stream has ended"
        if isinstance(message, GridwrightError):
            raise message
        self.seen.append(message)
        return message

    async def until(self, stage: pb.ExecutionStage.Value) -> operations_pb2.Operation:
        """Return the next message that shows *stage*."""
        while stage_of(message := await self.next()) != stage:
            pass
        return message

    async def response(self) -> pb.ExecuteResponse:
        """Read to the end; return what the operation came to."""
        while not (self.seen and self.seen[-1].done):
            await self.next()
        assert await self._arrived.get() is None
        return response_of(self.seen[-1])

    async def close(self) -> None:
        """Hang up."""
        self._reader.cancel()
        await asyncio.wait([self._reader])

    async def _read(self, messages: AsyncIterator[operations_pb2.Operation]) -> None:
        try:
            async for message in messages:
                self._arrived.put_nowait(message)
            self._arrived.put_nowait(None)
        except GridwrightError as error:
            self._arrived.put_nowait(error)

    @property
    def name(self) -> str:
        """The name of the operation."""
        return self.seen[0].name

    @property
    def stages(self) -> list[str]:
        """The stages that were seen, in their order."""
        return [pb.ExecutionStage.Value.Name(stage_of(message)) for message in self.seen]


class Grid:
    """A scheduler, or several that share a database, with their neighbours.

    Args:
        channels: one to each scheduler.
        answers: what the admin pages of each answer.
        stop: does as schedulers do when they stop, before their servers drain.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        answers: Sequence[Mapping[str, Answer]],
        cas: FakeCas,
        cache: FakeActionCache,
        stop: Callable[[], None],
    ) -> None:
        self.channels = channels
        self.answers = answers
        #: Each call goes to the next scheduler.
        self.channel = WanderingChannel(channels)
        self.cas = cas
        self.cache = cache
        self.stop = stop
        self.client = Client(self.channel, cas)

    def client_of(self, replica: int) -> Client:
        """Return a client that talks to one of the schedulers."""
        return Client(self.channels[replica], self.cas)

    async def worker(self, bot_id: str = "worker-1", **options: Any) -> ScriptedWorker:
        """Return a worker whose session has begun."""
        worker = ScriptedWorker(self.channel, bot_id, **options)
        await worker.create()
        return worker


@asynccontextmanager
async def open_grid(
    directory: Path,
    *,
    cas: FakeCas | None = None,
    cache: FakeActionCache | None = None,
    bots: Mapping[str, Any] | None = None,
    **scheduler: Any,
) -> AsyncIterator[Grid]:
    """Serve the schedulers whose database is in *directory*."""
    settings = settings_for(directory, bots=bots, **scheduler)
    cas, cache = cas or FakeCas(), cache or FakeActionCache()
    async with AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(open_replica(settings, cas, cache)) for _ in range(replicas_in(directory))
        ]

        def stop() -> None:
            for replica in replicas:
                replica.stop()

        try:
            channels = [replica.channel for replica in replicas]
            yield Grid(channels, [replica.answers for replica in replicas], cas, cache, stop)
        finally:
            stop()


@dataclass(frozen=True, slots=True)
class Replica:
    """One scheduler, and a channel to it."""

    channel: Channel
    answers: Mapping[str, Answer]
    stop: Callable[[], None]


@asynccontextmanager
async def open_replica(settings: SchedulerFile, cas: FakeCas, cache: FakeActionCache) -> AsyncIterator[Replica]:
    """Serve one scheduler."""
    process = Process()
    neighbours = Neighbours(cas=InProcessChannel(cas), actioncache=InProcessChannel(cache))
    async with (
        open_scheduler(settings, neighbours, process) as opened,
        serving(opened.servicers, server_options(settings, process)) as [port],
        GrpcChannel(f"127.0.0.1:{port}") as channel,
    ):
        try:
            yield Replica(channel, opened.answers, opened.end_what_is_held)
        finally:
            opened.end_what_is_held()


def settings_for(directory: Path, *, bots: Mapping[str, Any] | None = None, **scheduler: Any) -> SchedulerFile:
    """Return settings for a scheduler on any free port."""
    section = {
        "listen": "127.0.0.1:0",
        "database": settings_in(directory),
        "drain_seconds": 2,
        # Most tests have but one worker.
        "avoid_failed_worker_seconds": 0,
        "bots": {"hold_seconds": 5, **(bots or {})},
        **scheduler,
    }
    return validate_settings(SchedulerFile, {"instances": INSTANCES, "scheduler": section}, source="the test")


async def nothing_happens(task: asyncio.Task[Any], *, for_seconds: float = 0.3) -> bool:
    """Whether *task* is still waiting after a moment."""
    done, _ = await asyncio.wait([task], timeout=for_seconds)
    return not done


def metadata_of(operation: operations_pb2.Operation) -> pb.ExecuteOperationMetadata:
    """Return the metadata of an operation."""
    metadata = pb.ExecuteOperationMetadata()
    assert operation.metadata.Unpack(metadata)
    return metadata


def stage_of(operation: operations_pb2.Operation) -> pb.ExecutionStage.Value:
    """Return the stage that an operation shows."""
    return metadata_of(operation).stage


def response_of(operation: operations_pb2.Operation) -> pb.ExecuteResponse:
    """Return what an operation came to; it must have come to something."""
    assert operation.done
    response = pb.ExecuteResponse()
    assert operation.response.Unpack(response)
    return response
