"""The gRPC server: what it announces, how it fails, and how it ends."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry, generate_latest

from gridwright.auth.authenticator import LoopbackAuthenticator
from gridwright.auth.identity import ANONYMOUS
from gridwright.errors import ConfigurationError, NotFound, ResourceExhausted, Unavailable
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from gridwright.protos.google.bytestream.bytestream_rpc import ByteStreamClient
from gridwright.wire import server as server_module
from gridwright.wire.call import Call
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.limits import MAX_RECEIVE_BYTES
from gridwright.wire.server import serving
from gridwright.wire.serving import generic_handler
from tests.shared.probe import KINDS, Probe, ProbeByteStream, ProbeEvents, options, unary_unary

pytestmark = pytest.mark.filterwarnings("ignore:.*method is deprecated.*:DeprecationWarning")

BYTE_STREAM = "google.bytestream.ByteStream"


@pytest.fixture
def probe() -> Probe:
    return Probe()


def stub(kind: Any, channel: grpc.aio.Channel) -> Any:
    """Return a stub of grpc's own services; their stubs know the synchronous channel only."""
    return kind(channel)


async def health(port: int, service: str = "") -> str:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = await stub(health_pb2_grpc.HealthStub, channel).Check(
            health_pb2.HealthCheckRequest(service=service), timeout=5
        )
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


@pytest.mark.parametrize("service", ["", BYTE_STREAM, "google.devtools.build.v1.PublishBuildEvent"])
async def test_every_service_is_healthy_once_it_serves(probe: Probe, service: str) -> None:
    async with serving([ProbeByteStream(probe), ProbeEvents(probe)], options()) as (port,):
        assert await health(port, service) == "SERVING"


async def test_reflection_lists_the_services(probe: Probe) -> None:
    async with (
        serving([ProbeByteStream(probe)], options()) as (port,),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub(reflection_pb2_grpc.ServerReflectionStub, channel).ServerReflectionInfo(iter([request]), timeout=5)
        names = {one.name async for answer in call for one in answer.list_services_response.service}
    assert names == {BYTE_STREAM, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_an_unknown_method_is_unimplemented_and_not_counted(probe: Probe) -> None:
    registry = CollectorRegistry()
    async with (
        serving([ProbeByteStream(probe)], options(registry=registry)) as (port,),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        for path in (f"/{BYTE_STREAM}/Erase", "/no.such.Service/Call"):
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"", timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    # A caller could fill the memory with names of its invention.
    assert b"Erase" not in generate_latest(registry)


async def test_bytes_that_are_no_message_are_an_invalid_request(probe: Probe) -> None:
    async with (
        serving([ProbeByteStream(probe)], options()) as (port,),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{BYTE_STREAM}/QueryWriteStatus")
        stream: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(f"/{BYTE_STREAM}/Write")
        for call in (unary(b"\xff", timeout=5), stream(iter([b"\xff"]), timeout=5)):
            with pytest.raises(grpc.aio.AioRpcError, match=r"no google\.bytestream") as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_caller_on_a_unix_socket_is_on_this_machine(probe: Probe, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/run/probe.sock"
    async with serving([ProbeByteStream(probe)], options(address)) as (port,), GrpcChannel(address) as channel:
        assert port == 0
        assert await unary_unary(channel) == [3]
    assert probe.call.peer.startswith("unix:")
    assert probe.call.identity == ANONYMOUS


async def test_one_server_listens_on_several_addresses(probe: Probe, tmp_path: Path) -> None:
    unix = f"unix:{tmp_path}/probe.sock"
    async with serving([ProbeByteStream(probe)], options("127.0.0.1:0", unix)) as (port, _):
        for target in (f"127.0.0.1:{port}", unix):
            async with GrpcChannel(target) as channel:
                assert await unary_unary(channel) == [3]


async def test_a_used_port_is_an_error_that_names_it(probe: Probe) -> None:
    async with serving([ProbeByteStream(probe)], options()) as (port,):
        with pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1:{port}.*in use"):
            async with serving([ProbeByteStream(probe)], options(f"127.0.0.1:{port}")):
                pass


async def test_a_used_unix_socket_is_an_error_that_names_it(probe: Probe, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/probe.sock"
    async with serving([ProbeByteStream(probe)], options(address)), GrpcChannel(address) as channel:
        with pytest.raises(ConfigurationError, match=re.escape(address)):
            async with serving([ProbeByteStream(probe)], options(address)):
                pass
        assert await unary_unary(channel) == [3]


async def test_a_unix_socket_that_a_dead_process_left_is_taken_over(probe: Probe, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/probe.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{tmp_path}/probe.sock")
    async with serving([ProbeByteStream(probe)], options(address)), GrpcChannel(address) as channel:
        assert await unary_unary(channel) == [3]


async def test_what_is_unexpected_is_internal_and_says_nothing_of_the_inside(probe: Probe) -> None:
    async def fail(call: Call) -> None:
        raise KeyError("secret")

    probe.act = fail
    async with (
        serving([ProbeByteStream(probe), ProbeEvents(probe)], options()) as (port,),
        GrpcChannel(f"127.0.0.1:{port}") as channel,
    ):
        for speak, _ in KINDS.values():
            with pytest.raises(Exception, match="internal error; the server's log has the details") as caught:
                await speak(channel)
            assert type(caught.value).__name__ == "InternalError"


async def test_a_service_may_answer_otherwise_to_what_is_unexpected(probe: Probe) -> None:
    async def fail(call: Call) -> None:
        raise KeyError("secret")

    probe.act = fail
    special = server_module.ServerOptions(
        options().listen,
        options().authenticator,
        CollectorRegistry(),
        unexpected_codes={BYTE_STREAM: grpc.StatusCode.UNAVAILABLE},
    )
    async with (
        serving([ProbeByteStream(probe), ProbeEvents(probe)], special) as (port,),
        GrpcChannel(f"127.0.0.1:{port}") as channel,
    ):
        for kind, (speak, _) in KINDS.items():
            with pytest.raises(Exception, match="internal error") as caught:
                await speak(channel)
            wanted = "InternalError" if kind == "stream_stream" else "Unavailable"
            assert type(caught.value).__name__ == wanted


async def test_calls_are_counted_by_method_and_code(probe: Probe) -> None:
    async def fail(call: Call) -> None:
        raise NotFound("nothing")

    registry = CollectorRegistry()
    async with (
        serving([ProbeByteStream(probe), ProbeEvents(probe)], options(registry=registry)) as (port,),
        GrpcChannel(f"127.0.0.1:{port}") as channel,
    ):
        for speak, _ in KINDS.values():
            await speak(channel)
        await unary_unary(channel)
        probe.act = fail
        for speak, _ in KINDS.values():
            with pytest.raises(NotFound):
                await speak(channel)

    def count(method: str, code: str, service: str = BYTE_STREAM) -> float | None:
        labels = {"service": service, "method": method, "code": code}
        return registry.get_sample_value("gridwright_rpc_server_calls_total", labels)

    assert count("QueryWriteStatus", "OK") == 2
    assert count("Read", "OK") == 1
    assert count("Write", "OK") == 1
    events = "google.devtools.build.v1.PublishBuildEvent"
    assert count("PublishBuildToolEventStream", "OK", events) == 1
    assert count("QueryWriteStatus", "NOT_FOUND") == 1
    assert count("Read", "NOT_FOUND") == 1
    assert count("Write", "NOT_FOUND") == 1
    assert count("PublishBuildToolEventStream", "NOT_FOUND", events) == 1
    seconds = {"service": BYTE_STREAM, "method": "QueryWriteStatus"}
    assert registry.get_sample_value("gridwright_rpc_server_duration_seconds_count", seconds) == 3


async def test_a_message_above_the_limit_is_refused_and_the_next_call_served(probe: Probe) -> None:
    async with serving([ProbeByteStream(probe)], options()) as (port,), GrpcChannel(f"127.0.0.1:{port}") as channel:
        request = bs.QueryWriteStatusRequest(resource_name="x" * (MAX_RECEIVE_BYTES + 1))
        with pytest.raises(ResourceExhausted):
            await ByteStreamClient(channel).query_write_status(request, timeout=20)
        assert await unary_unary(channel) == [3]


async def test_a_drain_says_so_and_lets_calls_in_flight_finish(probe: Probe) -> None:
    entered, finish = asyncio.Event(), asyncio.Event()

    async def wait(call: Call) -> None:
        entered.set()
        await finish.wait()

    probe.act = wait
    server = serving([ProbeByteStream(probe)], options())
    (port,) = await server.__aenter__()
    target = f"127.0.0.1:{port}"
    async with GrpcChannel(target) as channel, grpc.aio.insecure_channel(target) as watching:
        states = stub(health_pb2_grpc.HealthStub, watching).Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert (await states.read()).status == health_pb2.HealthCheckResponse.SERVING
        in_flight = asyncio.create_task(unary_unary(channel, timeout=20))
        await entered.wait()
        leaving = asyncio.create_task(server.__aexit__(None, None, None))
        assert (await states.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not leaving.done()
        finish.set()
        assert await in_flight == [3]
        states.cancel()
        await asyncio.wait_for(leaving, 10)
        with pytest.raises(Unavailable):
            await unary_unary(channel, timeout=1)


async def test_a_drain_is_bounded(probe: Probe) -> None:
    entered = asyncio.Event()

    async def hang(call: Call) -> None:
        entered.set()
        await asyncio.Event().wait()

    probe.act = hang
    server = serving([ProbeByteStream(probe)], options(drain_seconds=0.2))
    (port,) = await server.__aenter__()
    async with GrpcChannel(f"127.0.0.1:{port}") as channel:
        in_flight = asyncio.create_task(unary_unary(channel, timeout=None))
        await entered.wait()
        await asyncio.wait_for(server.__aexit__(None, None, None), 10)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(in_flight, 5)
        assert probe.cancelled.is_set()


def test_clients_may_ping_every_ten_seconds_also_without_calls() -> None:
    """Checklist GRP-08; what grpc does at the first ping too many is GOAWAY "too_many_pings"."""
    option = dict(server_module._OPTIONS)
    assert option["grpc.http2.min_ping_interval_without_data_ms"] <= 10_000
    assert option["grpc.keepalive_permit_without_calls"] == 1
    assert option["grpc.http2.max_ping_strikes"] == 0


class HandlerCallDetails(NamedTuple):
    method: str
    invocation_metadata: tuple[()]


class GoneContext:
    """What grpc gives for a call whose caller has gone, while it has not yet cancelled the call."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def peer(self) -> str:
        return "unix:"

    def time_remaining(self) -> None:
        return None

    def set_trailing_metadata(self, trailers: object) -> None: ...

    async def write(self, message: object) -> None:
        raise grpc.aio.InternalError


async def test_a_reader_who_leaves_half_way_is_no_fault_of_ours(probe: Probe) -> None:
    handlers: Any = generic_handler(ProbeByteStream(probe), LoopbackAuthenticator())
    read = handlers.service(HandlerCallDetails(f"/{BYTE_STREAM}/Read", ()))
    with pytest.raises(asyncio.CancelledError):
        await read.unary_stream(b"", GoneContext())
