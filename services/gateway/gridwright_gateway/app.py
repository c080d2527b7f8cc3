"""Composes the gateway: Envoy before the services, the console beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict

from gridwright.clock import SystemClock
from gridwright.errors import ConfigurationError
from gridwright.instances import Instances
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import (
    ActionCache,
    Capabilities,
    Execution,
)
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ContentAddressableStorage as Cas
from gridwright.protos.google.bytestream.bytestream_rpc import ByteStream
from gridwright.protos.google.devtools.remoteworkers.v1test2.bots_rpc import Bots
from gridwright.protos.google.longrunning.operations_rpc import Operations
from gridwright.protos.gridwright.actioncache.v1.operator_rpc import ActionCacheOperator
from gridwright.telemetry.admin import serving_http
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.process import Process
from gridwright_gateway.config import GatewayFile
from gridwright_gateway.console.pages import console_app
from gridwright_gateway.console.status import HealthChecks, Upstream
from gridwright_gateway.envoy_admin import EnvoyAdmin
from gridwright_gateway.envoy_process import EnvoyOptions, running_envoy
from gridwright_gateway.envoy_program import find_envoy
from gridwright_gateway.routing.envoy import Gateway, render
from gridwright_gateway.routing.table import Backend
from gridwright_gateway.routing.targets import Endpoint, Pipe, parse_listener, parse_target

_COUNTED = tuple(
    servicer.service
    for servicer in (ActionCache, ActionCacheOperator, Bots, ByteStream, Capabilities, Cas, Execution, Operations)
)


@asynccontextmanager
async def open_app(settings: GatewayFile, process: Process) -> AsyncIterator[None]:
    """Run the gateway that *settings* describe; the process is told to stop when Envoy ends.

    Raises:
        ConfigurationError: it cannot be run so.
        EnvoyEnded: Envoy did not start, or has ended by itself.
    """
    refuse_open_door(settings)
    gateway = settings.gateway
    targets = {backend: str(getattr(settings.endpoints, backend.value)) for backend in Backend}
    listen = parse_listener(gateway.listen, key="gateway.listen")
    options = EnvoyOptions(
        program=find_envoy(gateway.envoy),
        directory=gateway.directory,
        threads=gateway.threads,
        log_level=settings.log.level,
        drain_seconds=gateway.drain_seconds,
    )
    plan = Gateway(
        listen=listen,
        backends={name: parse_target(target, key=f"endpoints.{name}") for name, target in targets.items()},
        admin_socket=str(options.admin_socket),
        counted={
            service.full_name: [method.path.rpartition("/")[2] for method in service.methods] for service in _COUNTED
        },
    )
    async with AsyncExitStack() as stack:
        bound = await stack.enter_async_context(
            running_envoy(render(plan), listen, options, on_end=process.stopping.set)
        )
        # Not before Envoy has been started: gRPC minds a fork while it has channels.
        channels = {name: await stack.enter_async_context(GrpcChannel(target)) for name, target in targets.items()}
        services = HealthChecks(
            tuple(Upstream(name.value, targets[name], channel) for name, channel in channels.items()), SystemClock()
        )
        console = console_app(_url(bound), [one.name for one in Instances(settings.instances)], services)
        await _enter(stack, serving_http(console, gateway.console), "gateway.console")

        async def report() -> dict[str, object]:
            return {"endpoint": _url(bound), "services": [asdict(one) for one in await services()]}

        admin = process.admin("gateway", gateway.admin, report, EnvoyAdmin(options.admin_socket).metrics)
        await _enter(stack, admin, "gateway.admin")
        yield


def refuse_open_door(settings: GatewayFile) -> None:
    """Refuse to let other machines in without being told to.

    To the services behind it, every call through the gateway comes from this machine, and on
    this machine a caller needs no proof of who it is.

    Raises:
        ConfigurationError: *settings* would have it so.
    """
    listen = settings.gateway.listen
    if not listen.is_local and not settings.auth.trust_network:
        raise ConfigurationError(
            f"gateway.listen: {listen} can be reached from other machines, and whoever reaches it could run commands "
            "here; listen on 127.0.0.1, or, on a private network, write auth.trust_network: true"
        )


async def _enter(stack: AsyncExitStack, server: AbstractAsyncContextManager[object], key: str) -> None:
    try:
        await stack.enter_async_context(server)
    except ConfigurationError as error:
        raise ConfigurationError(f"{key}: {error}") from None


def _url(listen: Endpoint) -> str:
    if isinstance(listen, Pipe):
        return f"unix:{listen.path}"
    return f"grpc://[{listen.name}]:{listen.port}" if ":" in listen.name else f"grpc://{listen.name}:{listen.port}"
