"""A scheduler that does what a test says, and a CAS, over real gRPC on Unix sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

from google.protobuf.empty_pb2 import Empty
from prometheus_client import CollectorRegistry

from gridwright.auth.authenticator import LoopbackAuthenticator
from gridwright.blobs.memory import MemoryStore
from gridwright.digest import DigestFunction
from gridwright.errors import NotFound
from gridwright.instances import Instances, InstanceSettings
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2
from gridwright.protos.google.devtools.remoteworkers.v1test2.bots_rpc import Bots
from gridwright.settings import Address
from gridwright.wire.call import Call
from gridwright.wire.server import ServerOptions, serving
from gridwright.wire.serving import Servicer
from gridwright_cas.servicers.bytestream import ByteStreamServicer
from gridwright_cas.servicers.cas import CasServicer
from tests.worker.actions import SHA256, message_of

_HOLD_SECONDS = 5.0


class ScriptedScheduler(Bots):
    """Gives the leases that a test gives it, and remembers what workers say of them."""

    def __init__(self) -> None:
        self.sessions: list[str] = []
        #: The requests of workers, as they came.
        self.told: list[bots_pb2.BotSession] = []
        #: Sessions it does not know are adopted, as ours does; else they are refused.
        self.adopts = True
        self._wanted: dict[str, tuple[bots_pb2.Lease, pb.ExecuteOperationMetadata]] = {}
        self._ended: dict[str, asyncio.Future[bots_pb2.Lease]] = {}
        self._changed = asyncio.Condition()

    def forget_sessions(self) -> None:
        self.sessions.clear()

    async def give(self, action: pb.Action, function: DigestFunction = SHA256) -> str:
        """Have a worker execute *action*; return the lease's id."""
        lease = bots_pb2.Lease(id=f"main/{uuid4().hex}", state=bots_pb2.PENDING)
        lease.payload.Pack(action)
        metadata = pb.ExecuteOperationMetadata(
            action_digest=message_of(function.digest(lease.payload.value)),
            digest_function=int(function),  # type: ignore[arg-type]  # the same numbers
        )
        self._wanted[lease.id] = (lease, metadata)
        self._ended[lease.id] = asyncio.get_running_loop().create_future()
        await self._tell()
        return lease.id

    async def take_back(self, lease_id: str) -> None:
        """Have no worker execute it any more."""
        del self._wanted[lease_id]
        await self._tell()

    async def ended(self, lease_id: str) -> bots_pb2.Lease:
        """Wait until a worker says that the lease is completed; return what it says."""
        async with asyncio.timeout(20):
            return await asyncio.shield(self._ended[lease_id])

    async def result(self, lease_id: str) -> pb.ActionResult:
        """Wait for the result of a lease that ends well."""
        lease = await self.ended(lease_id)
        assert (lease.status.code, lease.status.message) == (0, "")
        result = pb.ActionResult()
        lease.result.Unpack(result)
        return result

    async def until_told(self, condition: Callable[[bots_pb2.BotSession], bool]) -> bots_pb2.BotSession:
        """Wait until a worker has said something that *condition* holds for."""
        async with asyncio.timeout(20), self._changed:
            while True:
                for told in self.told:
                    if condition(told):
                        return told
                await self._changed.wait()

    async def create_bot_session(self, request: bots_pb2.CreateBotSessionRequest, call: Call) -> bots_pb2.BotSession:
        name = f"{request.parent}/{uuid4().hex}"
        self.sessions.append(name)
        return bots_pb2.BotSession(name=name, bot_id=request.bot_session.bot_id, worker=request.bot_session.worker)

    async def update_bot_session(self, request: bots_pb2.UpdateBotSessionRequest, call: Call) -> bots_pb2.BotSession:
        told = request.bot_session
        if request.name not in self.sessions:
            if not self.adopts:
                raise NotFound("no such session")
            self.sessions.append(request.name)
        self.told.append(told)
        async with self._changed:
            self._changed.notify_all()
        news = told.status == bots_pb2.BOT_TERMINATING
        for lease in told.leases:
            if lease.state == bots_pb2.COMPLETED:
                news = True
                self._wanted.pop(lease.id, None)
                if (ended := self._ended.get(lease.id)) and not ended.done():
                    ended.set_result(lease)
        if not news:
            await self._until_different({lease.id for lease in told.leases})
        answer = bots_pb2.BotSession(name=request.name, bot_id=told.bot_id, version="7")
        for lease, metadata in self._wanted.values():
            answer.leases.append(lease)
            call.add_trailer("executeoperationmetadata-bin", metadata.SerializeToString())
        return answer

    async def post_bot_event_temp(self, request: bots_pb2.PostBotEventTempRequest, call: Call) -> Empty:
        return Empty()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until_different(self, held: set[str]) -> None:
        try:
            async with asyncio.timeout(_HOLD_SECONDS), self._changed:
                await self._changed.wait_for(lambda: held != self._wanted.keys())
        except TimeoutError:
            pass


@asynccontextmanager
async def serving_on(path: Path, *servicers: Servicer) -> AsyncIterator[str]:
    """Serve on a Unix socket; yield its gRPC target."""
    address = Address.parse(f"unix:{path}")
    options = ServerOptions([address], LoopbackAuthenticator(), CollectorRegistry(), drain_seconds=0.1)
    async with serving(servicers, options):
        yield str(address)


@asynccontextmanager
async def serving_cas(path: Path, store: MemoryStore) -> AsyncIterator[str]:
    """Serve *store* as a CAS; yield its gRPC target."""
    instances = Instances([InstanceSettings(name="main")])
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(
            serving_on(path, CasServicer(instances, {"main": store}), ByteStreamServicer(instances, {"main": store}))
        )
