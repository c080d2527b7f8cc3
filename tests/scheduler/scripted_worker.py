"""Workers that do what a test says, one report at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2

from gridwright.digest import Digest, DigestFunction
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2 as pb
from gridwright.protos.google.devtools.remoteworkers.v1test2 import worker_pb2
from gridwright.protos.google.devtools.remoteworkers.v1test2.bots_rpc import BotsClient
from gridwright.wire.rpc import Channel, Metadata

T = TypeVar("T")

TIMEOUT_SECONDS = 60.0


class ScriptedWorker:
    """A bot whose session a test moves by hand.

    It speaks like the stock worker (``ours=False``: no RPC deadline, no property that tells
    of us) or like a worker of ours.
    """

    def __init__(
        self,
        channel: Channel,
        bot_id: str = "worker-1",
        *,
        instance: str = "main",
        capacity: int = 1,
        properties: Sequence[tuple[str, str]] = (("OSFamily", "linux"),),
        ours: bool = True,
    ) -> None:
        self._bots = BotsClient(channel)
        self._instance = instance
        self.timeout: float | None = TIMEOUT_SECONDS if ours else None
        device = worker_pb2.Device(handle=bot_id)
        worker = worker_pb2.Worker(devices=[device], configs=[{"key": "capacity", "value": str(capacity)}])
        for key, value in (*properties, *((("gridwright", "0.1.0"),) if ours else ())):
            worker.properties.add(key=key, value=value)
            worker.devices[0].properties.add(key=key, value=value)
        self.session = pb.BotSession(bot_id=bot_id, worker=worker)
        #: What the last answer said of its leases, by action digest.
        self.lease_metadata: dict[str, re.ExecuteOperationMetadata] = {}

    def use(self, channel: Channel) -> None:
        """Call *channel* from now on, as a proxy may let any call go to another scheduler."""
        self._bots = BotsClient(channel)

    async def create(self) -> pb.BotSession:
        """Begin a session."""
        request = pb.CreateBotSessionRequest(parent=self._instance, bot_session=self.session)
        self.session = await self._bots.create_bot_session(request, timeout=TIMEOUT_SECONDS)
        self.session.status = pb.OK
        return self.session

    async def update(self, metadata: Metadata = ()) -> pb.BotSession:
        """Report the session as it is; it becomes what the answer says."""
        self._hear(await self._send(metadata))
        return self.session

    async def take(self, count: int = 1) -> list[pb.Lease]:
        """Wait for *count* leases that are PENDING, and begin them: they are ACTIVE from the next report on."""
        taken: list[pb.Lease] = []
        while len(taken) < count:
            for lease in self.session.leases:
                if lease.state == pb.PENDING:
                    lease.state = pb.ACTIVE
                    taken.append(lease)
            if len(taken) < count:
                await self.update()
        return taken

    async def run(self, result: re.ActionResult | None = None) -> re.Action:
        """Take one action, do it, report it; return the action."""
        [lease] = await self.take()
        self.finish(lease.id, result or re.ActionResult())
        await self.update()
        return action_of(lease)

    def finish(
        self,
        lease_id: str,
        result: re.ActionResult | None,
        code: int = code_pb2.OK,
        message: str = "",
        *details: Message,
    ) -> None:
        """Let the lease be COMPLETED in the next report."""
        [lease] = [lease for lease in self.session.leases if lease.id == lease_id]
        lease.state = pb.COMPLETED
        lease.status.CopyFrom(status_pb2.Status(code=code, message=message, details=map(packed, details)))
        if result is not None:
            lease.result.CopyFrom(packed(result))

    def poll(self, metadata: Metadata = ()) -> asyncio.Task[pb.BotSession]:
        """Report, and let the call be held; the test awaits the answer, or cancels it."""

        async def held() -> pb.BotSession:
            self._hear(await self._send(metadata))
            return self.session

        return asyncio.create_task(held())

    async def report_until(self, outcome: Awaitable[T]) -> T:
        """Report, and return what *outcome* comes to; the report itself may be held till there is more to do."""
        poll = self.poll()
        try:
            return await outcome
        finally:
            poll.cancel()

    def states(self) -> Mapping[str, int]:
        """Return the state of each lease in the last answer."""
        return {lease.id: lease.state for lease in self.session.leases}

    async def _send(self, metadata: Metadata) -> pb.BotSession:
        trailers: list[tuple[str, str | bytes]] = []
        request = pb.UpdateBotSessionRequest(name=self.session.name, bot_session=self.session)
        answer = await self._bots.update_bot_session(
            request, timeout=self.timeout, metadata=metadata, on_trailers=trailers.extend
        )
        self.lease_metadata = {}
        for key, value in trailers:
            if key == "executeoperationmetadata-bin":
                assert isinstance(value, bytes)
                entry = re.ExecuteOperationMetadata.FromString(value)
                self.lease_metadata[entry.action_digest.hash] = entry
        return answer

    def _hear(self, answer: pb.BotSession) -> None:
        status = self.session.status
        self.session = answer
        self.session.status = status


def action_of(lease: pb.Lease) -> re.Action:
    """Return the Action that a lease holds."""
    action = re.Action()
    assert lease.payload.Unpack(action)
    return action


def digest_of(lease: pb.Lease) -> Digest:
    """Return the digest of the bytes that a lease holds."""
    return DigestFunction.SHA256.digest(lease.payload.value)


def packed(message: Message) -> Any:
    """Return *message* in an Any."""
    box = Any()
    box.Pack(message)
    return box
