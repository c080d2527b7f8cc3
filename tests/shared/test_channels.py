"""Channels: the same calls over gRPC and in process, and retries that stop in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator
from typing import TypeVar

import pytest
from google.protobuf.message import Message

from gridwright.auth.identity import ANONYMOUS
from gridwright.digest import DigestFunction
from gridwright.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    GridwrightError,
    InvalidRequest,
    MissingBlobs,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import CapabilitiesClient
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from gridwright.protos.google.bytestream.bytestream_rpc import QUERY_WRITE_STATUS, ByteStreamClient
from gridwright.wire.call import Call
from gridwright.wire.encoded_message import EncodedMessage, encoded
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.retrying_channel import RetryingChannel
from gridwright.wire.rpc import Channel, Metadata, Method, OnTrailers
from gridwright.wire.server import serving
from tests.shared.probe import KINDS, Probe, ProbeByteStream, connected, options, unary_stream, unary_unary

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture(params=["grpc", "in-process"])
async def channel(request: pytest.FixtureRequest, probe: Probe) -> AsyncIterator[Channel]:
    async with connected(request.param, probe) as channel:
        yield channel


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_of_every_kind_is_answered(channel: Channel, kind: str) -> None:
    speak, answers = KINDS[kind]
    assert await speak(channel) == answers


@pytest.mark.parametrize("kind", KINDS)
async def test_the_servicer_sees_metadata_deadline_identity_and_peer(channel: Channel, probe: Probe, kind: str) -> None:
    speak, _ = KINDS[kind]
    before = time.monotonic()
    await speak(channel, timeout=30, metadata=(("colour", "blue"), ("shade-bin", b"\x00\xff")))
    call = probe.call
    assert call.metadata.text("colour") == "blue"
    assert call.metadata.binary("shade-bin") == b"\x00\xff"
    assert call.metadata.text("absent") is None
    assert call.deadline is not None
    assert before + 20 < call.deadline < time.monotonic() + 31
    assert call.identity == ANONYMOUS
    assert call.peer.startswith(("ipv4:127.0.0.1:", "in-process"))


async def test_a_message_may_be_sent_and_received_as_its_bytes(channel: Channel) -> None:
    request = EncodedMessage(bs.QueryWriteStatusRequest(resource_name="abc").SerializeToString())
    answer = await channel.unary_unary(encoded(QUERY_WRITE_STATUS), request, timeout=5)
    assert answer.data == bs.QueryWriteStatusResponse(committed_size=3).SerializeToString()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_without_a_time_limit_has_no_deadline(channel: Channel, probe: Probe, kind: str) -> None:
    speak, _ = KINDS[kind]
    await speak(channel, timeout=None)
    assert probe.call.deadline is None
    assert probe.call.remaining_seconds() is None


async def test_trailing_metadata_reaches_a_caller_that_listens(channel: Channel) -> None:
    heard: list[Metadata] = []
    request = bs.QueryWriteStatusRequest()
    await ByteStreamClient(channel).query_write_status(request, timeout=5, on_trailers=heard.append)

    async def requests() -> AsyncIterator[bs.WriteRequest]:
        yield bs.WriteRequest()

    await ByteStreamClient(channel).write(requests(), timeout=5, on_trailers=heard.append)
    assert [("probe", "seen") in [tuple(pair) for pair in trailers] for trailers in heard] == [True, True]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("raised", "arrives"),
    [
        (InvalidRequest("no", field="x"), InvalidRequest),
        (NotFound("nothing"), NotFound),
        (MissingBlobs([DigestFunction.SHA256.digest(b"a")]), FailedPrecondition),
        (ResourceExhausted("full", retry_after_seconds=2.5), ResourceExhausted),
        (Unavailable("later"), Unavailable),
        (Cancelled("given up by an operator"), Cancelled),
    ],
)
async def test_an_error_of_the_servicer_arrives_as_one_of_the_family(
    channel: Channel, probe: Probe, kind: str, raised: GridwrightError, arrives: type[GridwrightError]
) -> None:
    async def fail(call: Call) -> None:
        raise raised

    probe.act = fail
    speak, _ = KINDS[kind]
    with pytest.raises(arrives) as caught:
        await speak(channel)
    assert str(caught.value) == str(raised)
    if isinstance(raised, ResourceExhausted):
        assert isinstance(caught.value, ResourceExhausted)
        assert caught.value.retry_after_seconds == 2.5


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_takes_too_long_is_deadline_exceeded_and_cancelled(
    channel: Channel, probe: Probe, kind: str
) -> None:
    async def hang(call: Call) -> None:
        await asyncio.Event().wait()

    probe.act = hang
    speak, _ = KINDS[kind]
    with pytest.raises(DeadlineExceeded):
        await speak(channel, timeout=0.1)
    await asyncio.wait_for(probe.cancelled.wait(), 5)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_caller_that_gives_up_cancels_the_servicer(channel: Channel, probe: Probe, kind: str) -> None:
    entered = asyncio.Event()

    async def hang(call: Call) -> None:
        entered.set()
        await asyncio.Event().wait()

    probe.act = hang
    speak, _ = KINDS[kind]
    caller = asyncio.ensure_future(speak(channel, timeout=None))
    await asyncio.wait_for(entered.wait(), 5)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await asyncio.wait_for(probe.cancelled.wait(), 5)


async def test_a_service_that_is_not_served_is_unimplemented(channel: Channel) -> None:
    with pytest.raises(Unimplemented):
        await CapabilitiesClient(channel).get_capabilities(pb.GetCapabilitiesRequest(), timeout=5)


async def test_an_error_of_the_uploads_own_source_passes_through(channel: Channel) -> None:
    async def requests() -> AsyncIterator[bs.WriteRequest]:
        yield bs.WriteRequest(data=b"x")
        raise ZeroDivisionError("the file vanished")

    with pytest.raises(ZeroDivisionError):
        await ByteStreamClient(channel).write(requests(), timeout=5)


async def test_an_answer_before_the_end_of_the_upload_is_the_answer(channel: Channel, probe: Probe) -> None:
    async def refuse(call: Call) -> None:
        raise ResourceExhausted("no room")

    async def endless() -> AsyncIterator[bs.WriteRequest]:
        while True:
            yield bs.WriteRequest(data=bytes(100_000))

    probe.act = refuse
    with pytest.raises(ResourceExhausted, match="no room"):
        await ByteStreamClient(channel).write(endless(), timeout=5)


async def test_a_response_before_the_end_of_the_upload_is_the_response() -> None:
    class HasItAlready(ProbeByteStream):
        async def write(self, requests: AsyncIterator[bs.WriteRequest], call: Call) -> bs.WriteResponse:
            await anext(requests)
            return bs.WriteResponse(committed_size=10**9)

    async def requests() -> AsyncIterator[bs.WriteRequest]:
        for _ in range(100):
            yield bs.WriteRequest(data=bytes(100_000))

    async with serving([HasItAlready(Probe())], options()) as (port,), GrpcChannel(f"127.0.0.1:{port}") as channel:
        for _ in range(50):
            answer = await ByteStreamClient(channel).write(requests(), timeout=5)
            assert answer.committed_size == 10**9


async def test_a_reader_may_leave_before_the_end(channel: Channel) -> None:
    responses = ByteStreamClient(channel).read(bs.ReadRequest(), timeout=5)
    assert (await anext(responses)).data == b"\x01"
    await responses.aclose()  # type: ignore[attr-defined]  # channels yield from async generators
    assert await unary_stream(channel) == [1, 2, 3]


async def test_a_target_where_nobody_listens_is_unavailable() -> None:
    async with GrpcChannel("127.0.0.1:1") as channel:
        with pytest.raises(Unavailable):
            await unary_unary(channel)


class Flaky(Channel):
    """Is unavailable some times, then answers."""

    def __init__(self, failures: int, error: GridwrightError | None = None) -> None:
        self.timeouts: list[float | None] = []
        self._failures = failures
        self._error = error or Unavailable("restarting")

    async def unary_unary(
        self,
        method: Method[Request, Response],
        request: Request,
        *,
        timeout: float | None,
        metadata: Metadata = (),
        on_trailers: OnTrailers | None = None,
    ) -> Response:
        self.timeouts.append(timeout)
        if len(self.timeouts) <= self._failures:
            raise self._error
        return method.response()

    def unary_stream(
        self, method: Method[Request, Response], request: Request, *, timeout: float | None, metadata: Metadata = ()
    ) -> AsyncIterator[Response]:
        raise self._error

    async def stream_unary(
        self,
        method: Method[Request, Response],
        requests: AsyncIterable[Request],
        *,
        timeout: float | None,
        metadata: Metadata = (),
        on_trailers: OnTrailers | None = None,
    ) -> Response:
        self.timeouts.append(timeout)
        raise self._error

    def stream_stream(
        self,
        method: Method[Request, Response],
        requests: AsyncIterable[Request],
        *,
        timeout: float | None,
        metadata: Metadata = (),
    ) -> AsyncIterator[Response]:
        raise self._error


def retrying(inner: Channel) -> RetryingChannel:
    return RetryingChannel(inner, first_delay_seconds=0.001, max_delay_seconds=0.004)


async def test_a_unary_call_outlasts_a_restart() -> None:
    inner = Flaky(failures=4)
    assert await unary_unary(retrying(inner)) == [0]
    assert len(inner.timeouts) == 5


async def test_each_try_has_what_is_left_of_the_time() -> None:
    inner = Flaky(failures=3)
    await unary_unary(retrying(inner), timeout=5)
    left = [timeout for timeout in inner.timeouts if timeout is not None]
    assert len(left) == 4
    assert left == sorted(left, reverse=True)
    assert left[0] <= 5


async def test_tries_end_with_the_callers_time() -> None:
    inner = Flaky(failures=10**9)
    with pytest.raises(Unavailable, match="restarting"):
        await asyncio.wait_for(unary_unary(retrying(inner), timeout=0.05), 5)
    assert len(inner.timeouts) > 1


async def test_tries_end_with_the_patience_though_the_caller_has_time() -> None:
    inner = Flaky(failures=10**9)
    impatient = RetryingChannel(inner, first_delay_seconds=0.001, max_delay_seconds=0.004, patience_seconds=0.05)
    with pytest.raises(Unavailable, match="restarting"):
        await asyncio.wait_for(unary_unary(impatient, timeout=60), 5)
    assert len(inner.timeouts) > 1


async def test_a_wait_that_the_server_asks_for_is_not_begun_when_it_outlasts_the_caller() -> None:
    inner = Flaky(failures=10**9, error=Unavailable("come back tomorrow", retry_after_seconds=86400))
    with pytest.raises(Unavailable):
        await asyncio.wait_for(unary_unary(retrying(inner), timeout=5), 5)
    assert len(inner.timeouts) == 1


async def test_other_errors_are_not_tried_again() -> None:
    inner = Flaky(failures=1, error=NotFound("nothing"))
    with pytest.raises(NotFound):
        await unary_unary(retrying(inner))
    assert len(inner.timeouts) == 1


@pytest.mark.parametrize("kind", ["unary_stream", "stream_unary", "stream_stream"])
async def test_streams_are_not_tried_again(kind: str) -> None:
    speak, _ = KINDS[kind]
    inner = Flaky(failures=1)
    with pytest.raises(Unavailable):
        await speak(retrying(inner))
    assert len(inner.timeouts) <= 1
