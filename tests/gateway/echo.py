"""Services that stand where ours would, and say what reached them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from google.protobuf.wrappers_pb2 import BytesValue

from gridwright.auth.authenticator import LoopbackAuthenticator
from gridwright.errors import Unavailable
from gridwright.protos.build.bazel.remote.asset.v1.remote_asset_rpc import Fetch, Push
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import (
    ActionCache,
    Capabilities,
    ContentAddressableStorage,
    Execution,
)
from gridwright.protos.build.bazel.remote.logstream.v1.remote_logstream_rpc import LogStreamService
from gridwright.protos.google.bytestream.bytestream_rpc import ByteStream
from gridwright.protos.google.devtools.remoteworkers.v1test2.bots_rpc import Bots
from gridwright.protos.google.longrunning.operations_rpc import Operations
from gridwright.protos.gridwright.actioncache.v1.operator_rpc import ActionCacheOperator
from gridwright.settings import Address
from gridwright.telemetry.metrics import new_registry
from gridwright.wire.call import Call
from gridwright.wire.rpc import Method, Service
from gridwright.wire.server import ServerOptions, serving
from gridwright.wire.serving import Servicer

SERVICES: dict[str, tuple[Service, ...]] = {
    "cas": (
        ContentAddressableStorage.service,
        ByteStream.service,
        Capabilities.service,
        LogStreamService.service,
        Fetch.service,
        Push.service,
    ),
    "actioncache": (ActionCache.service, ActionCacheOperator.service),
    "scheduler": (Execution.service, Operations.service, Bots.service),
}


@dataclass
class Script:
    """What the echoes of one backend are to do, and what they saw."""

    #: So many calls answer UNAVAILABLE before the first that does not.
    failures: int = 0
    #: Streams go on only when it is set.
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    calls: list[Call] = field(default_factory=list)


def echo_method(method: Method[Any, Any]) -> Method[BytesValue, BytesValue]:
    """Return *method* with its path and kind, but with messages that hold just bytes."""
    kind = {
        (False, False): "unary",
        (False, True): "answer_stream",
        (True, False): "ask_stream",
        (True, True): "both_streams",
    }[method.client_streaming, method.server_streaming]
    return replace(method, name=kind, request=BytesValue, response=BytesValue)


def echo(backend: str, original: Service, script: Script) -> Servicer:
    """Return a servicer of all methods of *original* that answers with what it was sent, or with its backend's name."""

    class Echo:
        service: ClassVar[Service] = Service(original.full_name, tuple(map(echo_method, original.methods)))

        async def unary(self, request: BytesValue, call: Call) -> BytesValue:
            script.calls.append(call)
            if script.failures:
                script.failures -= 1
                raise Unavailable("not now")
            for key, value in call.metadata:
                if key.startswith("x-test-"):
                    call.add_trailer(key, value)
            return BytesValue(value=request.value or backend.encode())

        async def answer_stream(self, request: BytesValue, call: Call) -> AsyncIterator[BytesValue]:
            script.calls.append(call)
            yield BytesValue(value=backend.encode())
            if request.value:
                await script.go_on.wait()
                yield request

        async def ask_stream(self, requests: AsyncIterator[BytesValue], call: Call) -> BytesValue:
            script.calls.append(call)
            size = 0
            async for request in requests:
                size += len(request.value)
            return BytesValue(value=str(size).encode() if size else backend.encode())

        async def both_streams(self, requests: AsyncIterator[BytesValue], call: Call) -> AsyncIterator[BytesValue]:
            async for _ in requests:
                yield BytesValue(value=backend.encode())

    return Echo()


@asynccontextmanager
async def echoing(backend: str, directory: Path) -> AsyncIterator[Script]:
    """Serve the echoes of *backend* on the socket named after it in *directory*."""
    script = Script()
    options = ServerOptions(
        listen=[Address(f"unix:{directory / backend}.sock")],
        authenticator=LoopbackAuthenticator(),
        registry=new_registry(),
        drain_seconds=0.1,
    )
    async with serving([echo(backend, service, script) for service in SERVICES[backend]], options):
        yield script


async def _main(backend: str, directory: str) -> None:
    async with echoing(backend, Path(directory)):
        print("up", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
