"""A bot whose every report a test writes itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from google.longrunning import operations_pb2
from google.protobuf import any_pb2
from google.protobuf.message import Message

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2
from tests.conformance.actions import Script, execute_request, started, upload
from tests.conformance.blobs import fresh
from tests.conformance.target import Metadata, Target

#: How long a report with nothing to answer is waited for.
POLL_SECONDS = 3.0


class Bot:
    """A bot, alone with a property of its own, so that it gets what a test means for it and nothing else."""

    def __init__(
        self, target: Target, *, capacity: int = 1, properties: Sequence[tuple[str, str]] = (), bot_id: str = ""
    ) -> None:
        self.target = target
        self.mark = fresh(8).hex()
        self.session = bots_pb2.BotSession(bot_id=bot_id or f"bot-{self.mark}")
        worker = self.session.worker
        worker.configs.add(key="capacity", value=str(capacity))
        device = worker.devices.add(handle=self.session.bot_id)
        for key, value in (("mark", self.mark), *properties):
            device.properties.add(key=key, value=value)

    async def create(self) -> bots_pb2.BotSession:
        """Begin a session."""
        request = bots_pb2.CreateBotSessionRequest(parent=self.target.instance, bot_session=self.session)
        self.session = await self.target.unary("Bots/CreateBotSession", request, bots_pb2.BotSession)
        self.session.status = bots_pb2.OK
        return self.session

    async def update(self, *, seconds: float = POLL_SECONDS, metadata: Metadata = ()) -> bots_pb2.BotSession:
        """Report the session as it is; it becomes what the answer says."""
        status = self.session.status
        self.session = await self.target.unary(
            "Bots/UpdateBotSession", self.request(), bots_pb2.BotSession, timeout=seconds, metadata=metadata
        )
        self.session.status = status
        return self.session

    def request(self) -> bots_pb2.UpdateBotSessionRequest:
        """Return the report."""
        return bots_pb2.UpdateBotSessionRequest(name=self.session.name, bot_session=self.session)

    async def take(self) -> bots_pb2.Lease:
        """Wait for a lease, and begin it."""
        async with asyncio.timeout(20):
            while not self.session.leases:
                await self.update()
        self.session.leases[0].state = bots_pb2.ACTIVE
        return self.session.leases[0]

    def finish(self, result: pb.ActionResult | None = None, code: grpc.StatusCode = grpc.StatusCode.OK) -> None:
        """Let the first lease be completed in the next report."""
        lease = self.session.leases[0]
        lease.state = bots_pb2.COMPLETED
        lease.status.code = code.value[0]
        if code is grpc.StatusCode.OK:
            lease.result.Pack(result or pb.ActionResult())

    async def execute(self, **properties: str) -> operations_pb2.Operation:
        """Have something executed that is for this bot; return the operation as it is at first."""
        wanted = {"mark": self.mark, **properties}
        platform = pb.Platform(properties=[{"name": name, "value": value} for name, value in sorted(wanted.items())])
        script = Script("true", action={"salt": fresh(16), "platform": platform})
        return await started(self.target, execute_request(self.target, await upload(self.target, script)))


async def new_bot(target: Target, **options: Any) -> Bot:
    """Return a bot whose session has begun."""
    bot = Bot(target, **options)
    await bot.create()
    return bot


def states(session: bots_pb2.BotSession) -> Mapping[str, int]:
    """Return the state of each lease."""
    return {lease.id: lease.state for lease in session.leases}


def unpacked(box: any_pb2.Any, message: Message) -> Message:
    """Return *message* as *box* holds it."""
    assert box.Unpack(message), box.type_url
    return message
