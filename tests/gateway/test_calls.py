"""Calls through a real Envoy: each reaches its service, whole and unhurried."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import BytesValue

from gridwright.errors import DeadlineExceeded, Unavailable, Unimplemented
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import (
    ActionCache,
    ContentAddressableStorage,
    Execution,
)
from gridwright.protos.google.bytestream.bytestream_rpc import ByteStream
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.health import SERVING, ask_health
from gridwright.wire.rpc import Metadata, Method
from tests.gateway.echo import SERVICES, Script, echo_method, echoing


def method(
    service: type[ActionCache | ContentAddressableStorage | Execution | ByteStream], name: str
) -> Method[BytesValue, BytesValue]:
    found = next(one for one in service.service.methods if one.path.endswith(f"/{name}"))
    return echo_method(found)


GET_ACTION_RESULT = method(ActionCache, "GetActionResult")
UPDATE_ACTION_RESULT = method(ActionCache, "UpdateActionResult")
FIND_MISSING = method(ContentAddressableStorage, "FindMissingBlobs")
EXECUTE = method(Execution, "Execute")
WRITE = method(ByteStream, "Write")


async def answer(channel: GrpcChannel, method: Method[BytesValue, BytesValue], value: bytes = b"") -> bytes:
    """Call *method*, of whatever kind, with one message, and return the first that comes back."""
    request = BytesValue(value=value)

    async def requests() -> AsyncIterator[BytesValue]:
        yield request

    match method.client_streaming, method.server_streaming:
        case False, False:
            return (await channel.unary_unary(method, request, timeout=10)).value
        case False, True:
            return (await anext(channel.unary_stream(method, request, timeout=10))).value
        case True, False:
            return (await channel.stream_unary(method, requests(), timeout=10)).value
        case _:
            return (await anext(channel.stream_stream(method, requests(), timeout=10))).value


async def test_every_method_reaches_the_service_that_answers_it(
    channel: GrpcChannel, scripts: dict[str, Script]
) -> None:
    reached = {
        method.path: await answer(channel, echo_method(method))
        for services in SERVICES.values()
        for service in services
        for method in service.methods
    }
    assert reached == {
        method.path: backend.encode()
        for backend, services in SERVICES.items()
        for service in services
        for method in service.methods
    }


@pytest.mark.parametrize(
    "path", ["/google.bytestream.ByteStream/Append", "/google.devtools.build.v1.PublishBuildEvent/X", "/", "/a/b/c"]
)
async def test_an_unknown_method_is_unimplemented(channel: GrpcChannel, scripts: dict[str, Script], path: str) -> None:
    unknown = Method(path, "unary", BytesValue, BytesValue, client_streaming=False, server_streaming=False)
    with pytest.raises(Unimplemented):
        await answer(channel, unknown)


async def test_health_is_that_of_the_cas(channel: GrpcChannel, scripts: dict[str, Script]) -> None:
    for service in ("", "google.bytestream.ByteStream"):
        assert await ask_health(channel, service, timeout=10) == SERVING


async def test_metadata_and_trailers_pass_also_binary_ones(channel: GrpcChannel, scripts: dict[str, Script]) -> None:
    sent: Metadata = [("x-test-text", "a value"), ("x-test-bytes-bin", bytes(range(256)))]
    heard: list[Metadata] = []
    await channel.unary_unary(GET_ACTION_RESULT, BytesValue(), timeout=10, metadata=sent, on_trailers=heard.append)
    assert set(sent) <= set(heard[0])


async def test_what_only_a_gateway_may_say_is_removed(channel: GrpcChannel, scripts: dict[str, Script]) -> None:
    forged: Metadata = [
        ("x-gridwright-subject", "admin"),
        ("x-gridwright-roles-bin", b"admin"),
        ("x-gridwright-service", "scheduler"),
        ("x-gridwright-service", "scheduler"),
        ("x-gridwright-service-bin", b"scheduler"),
        ("x-forwarded-client-cert", "Subject=admin"),
        ("x-envoy-max-retries", "9"),
    ]
    await channel.unary_unary(GET_ACTION_RESULT, BytesValue(), timeout=10, metadata=forged)
    arrived = {key for key, _ in scripts["actioncache"].calls[0].metadata}
    assert arrived.isdisjoint(key for key, _ in forged)


async def test_the_deadline_of_the_caller_passes_and_holds(channel: GrpcChannel, scripts: dict[str, Script]) -> None:
    await channel.unary_unary(GET_ACTION_RESULT, BytesValue(), timeout=1000)
    deadline = scripts["actioncache"].calls[0].deadline
    assert deadline is not None
    assert 900 < deadline - time.monotonic() <= 1000
    stream = channel.unary_stream(EXECUTE, BytesValue(value=b"wait"), timeout=0.3)
    with pytest.raises(DeadlineExceeded):
        _ = [response async for response in stream]


async def test_a_call_without_a_deadline_has_none(channel: GrpcChannel, scripts: dict[str, Script]) -> None:
    await channel.unary_unary(GET_ACTION_RESULT, BytesValue(), timeout=None)
    assert scripts["actioncache"].calls[0].deadline is None


async def test_a_message_of_15_mb_passes_both_ways(channel: GrpcChannel, scripts: dict[str, Script]) -> None:
    large = bytes(15_000_000)
    assert await answer(channel, FIND_MISSING, large) == large


async def test_an_upload_that_is_larger_than_every_window_passes(
    channel: GrpcChannel, scripts: dict[str, Script]
) -> None:
    async def chunks() -> AsyncIterator[BytesValue]:
        for _ in range(100):
            yield BytesValue(value=bytes(1_000_000))

    response = await channel.stream_unary(WRITE, chunks(), timeout=60)
    assert response.value == b"100000000"


async def test_two_thousand_streams_at_once_are_held(channel: GrpcChannel, scripts: dict[str, Script]) -> None:
    async def hold() -> list[bytes]:
        async with aclosing(channel.unary_stream(EXECUTE, BytesValue(value=b"end"), timeout=60)) as responses:  # type: ignore[type-var]
            return [response.value async for response in responses]

    held = [asyncio.create_task(hold()) for _ in range(2000)]
    async with asyncio.timeout(60):
        while len(scripts["scheduler"].calls) < len(held):  # noqa: ASYNC110  # the echoes count, they do not tell
            await asyncio.sleep(0.01)
    scripts["scheduler"].go_on.set()
    assert await asyncio.gather(*held) == [[b"scheduler", b"end"]] * len(held)


async def test_a_service_that_is_away_is_named_and_found_again(channel: GrpcChannel, directory: Path) -> None:
    for _ in range(2):
        with pytest.raises(Unavailable, match="the actioncache service does not answer"):
            await answer(channel, UPDATE_ACTION_RESULT)
        async with echoing("actioncache", directory):
            assert await answer(channel, UPDATE_ACTION_RESULT) == b"actioncache"


async def test_a_stream_whose_service_is_lost_breaks_as_unavailable(channel: GrpcChannel, directory: Path) -> None:
    stream = channel.unary_stream(EXECUTE, BytesValue(value=b"wait"), timeout=60)
    async with killable_scheduler(directory) as service:
        assert (await anext(stream)).value == b"scheduler"
        service.kill()
        with pytest.raises(Unavailable):
            await anext(stream)


@asynccontextmanager
async def killable_scheduler(directory: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Serve echoes of the scheduler in a process of their own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.gateway.echo", "scheduler", str(directory)), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert await process.stdout.readline()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("size_bytes", [0, 4_000_000])
async def test_a_question_is_asked_again_when_the_service_was_unavailable(
    channel: GrpcChannel, scripts: dict[str, Script], size_bytes: int
) -> None:
    scripts["cas"].failures = 2
    question = bytes(size_bytes)
    assert await answer(channel, FIND_MISSING, question) == (question or b"cas")
    assert len(scripts["cas"].calls) == 3


async def test_the_action_cache_is_not_asked_again_once_it_has_answered(
    channel: GrpcChannel, scripts: dict[str, Script]
) -> None:
    scripts["actioncache"].failures = 1
    with pytest.raises(Unavailable, match="not now"):
        await answer(channel, GET_ACTION_RESULT)
    assert len(scripts["actioncache"].calls) == 1


async def test_what_changes_something_is_not_tried_again(channel: GrpcChannel, scripts: dict[str, Script]) -> None:
    scripts["actioncache"].failures = 1
    with pytest.raises(Unavailable, match="not now"):
        await answer(channel, UPDATE_ACTION_RESULT)
    assert len(scripts["actioncache"].calls) == 1
