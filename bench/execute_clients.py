"""A client in a process of its own that executes actions and sends bytes as they are."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import grpc
import uvloop
from google.longrunning import operations_pb2

from bench.cas_process import INSTANCE
from bench.documents import digest_of, encode, upload
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import EXECUTE
from gridwright.wire.request_metadata import KEY
from gridwright.wire.rpc import Channel

_TIMEOUT_SECONDS = 600.0
_Call = grpc.aio.UnaryStreamMultiCallable[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Executions:
    """What the client executes, over one connection, as a build tool does."""

    endpoint: str
    #: ExecuteRequests, serialised.
    requests: Sequence[bytes]
    #: At most so many at the same time.
    in_flight: int
    #: So many begin in a second, whether or not others have ended; 0: as soon as one ends, the next begins.
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Executed:
    """What the client saw; the times are of the clock that all processes of a machine share."""

    begun: float
    ended: float
    #: When each call was sent, and when it ended, in the order of the requests.
    calls: Sequence[tuple[float, float]]

    @property
    def per_second(self) -> float:
        return len(self.calls) / (self.ended - self.begun)


async def make_actions(cas: Channel, count: int, platform: tuple[str, str], *, salted: bool) -> list[pb.Digest]:
    """Upload *count* actions that were never seen before, and their commands; return their digests.

    *salted* ones have their number for a salt, which tells a bot which of them it has.
    """
    run, root = uuid.uuid4().hex, encode(pb.Directory())
    properties = pb.Platform(properties=[pb.Platform.Property(name=platform[0], value=platform[1])])
    commands = [
        encode(
            pb.Command(
                arguments=["/usr/bin/gcc", "-O2", "-c", f"src/{run}/{number}.c", "-o", "out.o"],
                output_paths=["out.o"],
                platform=properties,
            )
        )
        for number in range(count)
    ]
    actions = [
        encode(
            pb.Action(
                command_digest=digest_of(command),
                input_root_digest=digest_of(root),
                platform=properties,
                salt=b"%d" % number if salted else b"",
            )
        )
        for number, command in enumerate(commands)
    ]
    await upload(cas, INSTANCE, [root, *commands, *actions])
    return [digest_of(action) for action in actions]


def requests_for(actions: Sequence[pb.Digest], *, priority: int = 0) -> list[bytes]:
    """Return the calls that execute *actions*."""
    policy = pb.ExecutionPolicy(priority=priority) if priority else None
    return [
        pb.ExecuteRequest(instance_name=INSTANCE, action_digest=one, execution_policy=policy).SerializeToString()
        for one in actions
    ]


async def execute(executions: Executions) -> Executed:
    """Let a process of its own make the calls; check the answers once that is over.

    Raises:
        RuntimeError: an operation did not end well.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, _run, executions)


def _run(executions: Executions) -> Executed:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_execute_all(executions))


async def _execute_all(executions: Executions) -> Executed:
    requests = executions.requests
    told = pb.RequestMetadata(
        tool_details=pb.ToolDetails(tool_name="bench"), tool_invocation_id=str(uuid.uuid4())
    ).SerializeToString()
    metadata = ((KEY, told),)
    calls = [(0.0, 0.0)] * len(requests)
    last = [b""] * len(requests)
    async with grpc.aio.insecure_channel(executions.endpoint) as channel:
        await channel.channel_ready()
        # No serialisers: what is given is what is sent, and bytes come back.
        stream: _Call = channel.unary_stream(EXECUTE.path)

        async def call(number: int) -> None:
            sent = time.monotonic()
            async for message in stream(requests[number], timeout=_TIMEOUT_SECONDS, metadata=metadata):
                last[number] = message
            calls[number] = (sent, time.monotonic())

        numbers = iter(range(len(requests)))
        begun = time.monotonic()

        async def one_after_the_other() -> None:
            for number in numbers:
                await call(number)

        async with asyncio.TaskGroup() as group:
            if executions.rate:
                for number in numbers:
                    await asyncio.sleep(max(0.0, begun + number / executions.rate - time.monotonic()))
                    group.create_task(call(number))
            else:
                for _ in range(executions.in_flight):
                    group.create_task(one_after_the_other())
        ended = time.monotonic()
    for message in last:
        _check(message)
    return Executed(begun, ended, calls)


def _check(message: bytes) -> None:
    operation = operations_pb2.Operation.FromString(message)
    answer = pb.ExecuteResponse()
    if not operation.done or not operation.response.Unpack(answer):
        raise RuntimeError(f"a stream ended before its operation was done: {operation}")
    if answer.status.code or answer.cached_result or answer.result.stdout_raw != b"done":
        raise RuntimeError(f"an action did not end well: {answer}")
