"""Whether a build can run on a local grid: each part is asked, the way its users would ask."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

from gridwright.errors import GridwrightError, Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import CapabilitiesClient
from gridwright.settings import Address
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.health import SERVING, ask_health
from gridwright.wire.rpc import Channel
from gridwright_cli.up.grid_file import admin_socket_of, socket_of
from gridwright_cli.up.options import UpOptions

#: Raises Unavailable, or another of our errors, while its part is not ready.
Probe = Callable[[], Awaitable[None]]

_ASK_SECONDS = 5.0
#: There is no event to wait for: the services do not know who started them.
_ASK_EVERY_SECONDS = 0.1


class Readiness:
    """Asks every part of the grid; a context, as it holds connections."""

    def __init__(self, options: UpOptions) -> None:
        self._options = options
        self._stack = AsyncExitStack()
        self._probes: dict[str, Probe] = {}

    async def __aenter__(self) -> Readiness:
        for name in ("cas", "actioncache", "scheduler"):
            channel = await self._stack.enter_async_context(GrpcChannel(socket_of(name)))
            self._probes[name] = _serves(channel)
        self._probes["worker"] = has_session(Address(admin_socket_of("worker")))
        gateway = await self._stack.enter_async_context(GrpcChannel(str(self._options.probe_address)))
        self._probes["gateway"] = _knows_instance(gateway, self._options.instance)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    async def wait(self, on_delay: Callable[[Mapping[str, str]], None], *, every_seconds: float) -> None:
        """Return once all parts are ready.

        *on_delay* is told every so often what each part lacks that is not.
        """
        loop = asyncio.get_running_loop()
        reported = loop.time()
        while lacking := await self._ask_all():
            if loop.time() >= reported + every_seconds:
                reported = loop.time()
                on_delay(lacking)
            await asyncio.sleep(_ASK_EVERY_SECONDS)

    async def _ask_all(self) -> Mapping[str, str]:
        answers = await asyncio.gather(*(_ask(probe) for probe in self._probes.values()))
        return {name: answer for name, answer in zip(self._probes, answers, strict=True) if answer}


async def _ask(probe: Probe) -> str:
    """Return what is wrong, or nothing."""
    try:
        async with asyncio.timeout(_ASK_SECONDS):
            await probe()
    except GridwrightError as error:
        return str(error)
    except TimeoutError:
        return f"no answer within {_ASK_SECONDS:g} s"
    return ""


def _serves(channel: Channel) -> Probe:
    async def probe() -> None:
        if (health := await ask_health(channel, timeout=_ASK_SECONDS)) != SERVING:
            raise Unavailable(f"health is {health}")

    return probe


def _knows_instance(channel: Channel, instance: str) -> Probe:
    async def probe() -> None:
        request = pb.GetCapabilitiesRequest(instance_name=instance)
        await CapabilitiesClient(channel).get_capabilities(request, timeout=_ASK_SECONDS)

    return probe


def has_session(admin: Address) -> Probe:
    """A worker's readiness covers its own state only; whether the scheduler knows it is told by its status."""

    async def probe() -> None:
        status, body = await _get(admin, "/status")
        if status != 200:
            raise Unavailable(f"HTTP status {status}")
        try:
            state = json.loads(body)["bots"]["state"]
        except (ValueError, KeyError, TypeError):
            raise Unavailable("its status page does not say whether it has a session") from None
        if state != "connected":
            raise Unavailable(f"its session at the scheduler is {state}")

    return probe


async def _get(admin: Address, path: str) -> tuple[int, str]:
    """Return status and body of a page of a service's admin port, a Unix socket."""
    try:
        reader, writer = await asyncio.open_unix_connection(admin.unix_path)
    except OSError as error:
        raise Unavailable(f"cannot connect to {admin}: {error.strerror}") from None
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        words = head.split(b" ", 2)
        if len(words) < 2 or not words[1].isdigit():
            raise Unavailable(f"{admin} does not speak HTTP")
        return int(words[1]), body.decode(errors="replace")
    except OSError as error:
        raise Unavailable(f"{admin} hung up: {error.strerror}") from None
    finally:
        writer.close()
