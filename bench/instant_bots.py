"""Bots in a process of their own that report each action completed at once, and so cost next to nothing."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import grpc
import uvloop
from google.protobuf.any_pb2 import Any

from bench.cas_process import INSTANCE
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2 as pb
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_rpc, worker_pb2

#: The platform property that all bots have.
PLATFORM = ("OSFamily", "linux")
_CALL_SECONDS = 60.0
_START_SECONDS = 300.0
#: Sessions that begin at the same time.
_BEGINNING = 50
_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_Call = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Bots:
    """How many, and of which kind."""

    endpoint: str
    count: int
    capacity: int = 16
    #: Over so many connections, as through a gateway.
    connections: int = 1
    #: How long each action takes.
    hold_seconds: float = 0.0


@dataclass(slots=True)
class RunningBots:
    """The process that they live in."""

    pid: int
    _pipe: Connection
    #: When a bot was told of an action, by the number that is its salt, and the clock that all processes share.
    told: Mapping[int, float] = field(default_factory=dict)

    async def stop(self) -> None:
        """End them, and learn what they saw."""
        self._pipe.send("stop")
        self.told = await asyncio.to_thread(self._pipe.recv)


@asynccontextmanager
async def instant_bots(bots: Bots) -> AsyncIterator[RunningBots]:
    """Run *bots* while the block runs; their sessions have begun when it does."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_run, args=(bots, theirs), daemon=True)
    process.start()
    theirs.close()
    assert process.pid is not None
    try:
        if not await asyncio.to_thread(ours.poll, _START_SECONDS) or ours.recv() != "ready":
            raise RuntimeError("the bots did not get ready")
        yield RunningBots(process.pid, ours)
    finally:
        process.terminate()
        await asyncio.to_thread(process.join)


def _run(bots: Bots, pipe: Connection) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(bots, pipe))


async def _serve(bots: Bots, pipe: Connection) -> None:
    told: dict[int, float] = {}
    async with AsyncExitStack() as stack:
        channels = []
        for _ in range(bots.connections):
            options = [("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES), ("grpc.use_local_subchannel_pool", 1)]
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(bots.endpoint, options=options))
            channels.append(channel)
        beginning = asyncio.Semaphore(_BEGINNING)
        running = [_Bot(channels[n % len(channels)], f"bot-{n}", bots, told) for n in range(bots.count)]
        await asyncio.gather(*(bot.begin(beginning) for bot in running))
        tasks = [asyncio.create_task(bot.run()) for bot in running]
        pipe.send("ready")
        stopping = asyncio.create_task(asyncio.to_thread(pipe.recv))
        ended, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            await task
        for task in tasks:
            task.cancel()
        pipe.send(told)
        await asyncio.gather(*tasks, return_exceptions=True)


class _Bot:
    """One bot of ours: its calls have a deadline, and it is not told again the payload of what it has begun."""

    def __init__(self, channel: grpc.aio.Channel, bot_id: str, bots: Bots, told: dict[int, float]) -> None:
        # No serialisers of Python's: bytes are sent, and bytes come back.
        self._create: _Call = channel.unary_unary(bots_rpc.CREATE_BOT_SESSION.path)
        self._update: _Call = channel.unary_unary(bots_rpc.UPDATE_BOT_SESSION.path)
        self._hold_seconds = bots.hold_seconds
        self._told = told
        worker = worker_pb2.Worker(
            devices=[worker_pb2.Device(handle=bot_id)],
            configs=[worker_pb2.Worker.Config(key="capacity", value=str(bots.capacity))],
            properties=[
                worker_pb2.Worker.Property(key=PLATFORM[0], value=PLATFORM[1]),
                worker_pb2.Worker.Property(key="gridwright", value="bench"),
            ],
        )
        self._session = pb.BotSession(bot_id=bot_id, worker=worker, status=pb.OK)
        metadata = re.ExecutedActionMetadata(worker=bot_id)
        self._result = Any()
        self._result.Pack(re.ActionResult(stdout_raw=b"done", execution_metadata=metadata))
        #: When what it holds is done, by the lease's id.
        self._done_at: dict[str, float] = {}

    async def begin(self, beginning: asyncio.Semaphore) -> None:
        request = pb.CreateBotSessionRequest(parent=INSTANCE, bot_session=self._session)
        async with beginning:
            answer = await self._create(request.SerializeToString(), timeout=_CALL_SECONDS)
        self._session.name = pb.BotSession.FromString(answer).name

    async def run(self) -> None:
        """Report, and report anew as soon as there is an answer, or something is done before there is one."""
        while True:
            sent = time.monotonic()
            call = self._update(self._report(sent), timeout=_CALL_SECONDS)
            ends = [at for at in self._done_at.values() if at > sent]
            if not ends:
                self._hear(await call)
                continue
            answering = asyncio.ensure_future(call)
            await asyncio.wait([answering], timeout=min(ends) - sent)
            if answering.done():
                self._hear(answering.result())
            else:
                answering.cancel()
                await asyncio.wait([answering])

    def _report(self, now: float) -> bytes:
        del self._session.leases[:]
        for lease_id, done_at in self._done_at.items():
            lease = self._session.leases.add(id=lease_id, state=pb.ACTIVE)
            if done_at <= now:
                lease.state = pb.COMPLETED
                lease.status.code = 0
                lease.result.CopyFrom(self._result)
        return pb.UpdateBotSessionRequest(name=self._session.name, bot_session=self._session).SerializeToString()

    def _hear(self, answer: bytes) -> None:
        now = time.monotonic()
        held = {}
        for lease in pb.BotSession.FromString(answer).leases:
            done_at = self._done_at.get(lease.id)
            if done_at is None:
                if salt := re.Action.FromString(lease.payload.value).salt:
                    self._told[int(salt)] = now
                done_at = now + self._hold_seconds
            held[lease.id] = done_at
        self._done_at = held
