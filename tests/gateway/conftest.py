"""A real Envoy before echoes of the services."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from gridwright.wire.grpc_channel import GrpcChannel
from gridwright_gateway.envoy_process import EnvoyOptions, running_envoy
from gridwright_gateway.envoy_program import find_envoy
from gridwright_gateway.routing.envoy import Gateway, render
from gridwright_gateway.routing.table import Backend
from gridwright_gateway.routing.targets import Endpoint, Host, Pipe
from tests.gateway.echo import Script, echoing


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a short path, as Unix sockets need it."""
    path = Path(tempfile.mkdtemp(prefix="gateway-"))
    yield path
    shutil.rmtree(path)


def options(directory: Path) -> EnvoyOptions:
    return EnvoyOptions(
        program=find_envoy(None), directory=directory / "gateway", threads=1, log_level="info", drain_seconds=5
    )


def plan(directory: Path, listen: Endpoint = Host("127.0.0.1", 0)) -> Gateway:  # noqa: B008 - it is frozen
    return Gateway(
        listen=listen,
        backends={backend: [Pipe(str(directory / f"{backend}.sock"))] for backend in Backend},
        admin_socket=str(options(directory).admin_socket),
        counted={},
    )


@asynccontextmanager
async def envoy(directory: Path) -> AsyncIterator[str]:
    """Run an Envoy before the sockets in *directory*; yield the gRPC target of the gateway."""
    gateway = plan(directory)
    async with running_envoy(render(gateway), gateway.listen, options(directory), on_end=lambda: None) as bound:
        assert isinstance(bound, Host)
        yield f"{bound.name}:{bound.port}"


@pytest.fixture
async def channel(directory: Path) -> AsyncIterator[GrpcChannel]:
    """A channel to a gateway whose services may or may not be up."""
    async with envoy(directory) as target, GrpcChannel(target) as channel:
        yield channel


@pytest.fixture
async def scripts(directory: Path) -> AsyncIterator[dict[str, Script]]:
    """Echoes of all services."""
    async with AsyncExitStack() as stack:
        yield {backend.value: await stack.enter_async_context(echoing(backend.value, directory)) for backend in Backend}
