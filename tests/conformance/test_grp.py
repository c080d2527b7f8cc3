"""gRPC transport conventions (checklist GRP)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator

import grpc
import httpx
import pytest
from google.longrunning import operations_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from tests.conformance.actions import Script, cancel, execute_request, run_action, started, upload
from tests.conformance.blobs import digest_of, fresh
from tests.conformance.conftest import ENVIRONMENT
from tests.conformance.second_process import second_process
from tests.conformance.target import CALL_SECONDS, Target, chunks_of, connected, kept_open, refused, write_requests
from tests.journeys.grid import Grid, free_ports

UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED
DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED
#: What a client with defaults receives.
MESSAGE_BYTES = 4 * 1024 * 1024
TRAILER_BYTES = 8 * 1024
REAPI = "/build.bazel.remote.execution.v2"


@pytest.mark.parametrize(
    "method",
    [
        "/x.Y/Z",
        f"{REAPI}.ContentAddressableStorage/NoSuchMethod",
        f"{REAPI}.Capabilities/NoSuchMethod",
        "/build.bazel.remote.execution.v3.Execution/Execute",
    ],
)
async def test_grp_01_what_is_not_there_is_unimplemented(target: Target, method: str) -> None:
    with refused(UNIMPLEMENTED):
        await target.unary(method, pb.GetCapabilitiesRequest(), pb.ServerCapabilities)


async def test_grp_02_messages_larger_than_the_default_are_received(target: Target) -> None:
    data = fresh(5 * 1024 * 1024)
    answer = await target.write(target.upload_name(digest_of(data)), [data])
    assert answer.committed_size == len(data)


async def test_grp_03_pages_of_a_large_tree_are_received_by_default(target: Target) -> None:
    root = await _upload_wide_tree(target, directories=40, files=2_000)
    request = pb.GetTreeRequest(instance_name=target.instance, root_digest=root)
    pages = target.streamed("ContentAddressableStorage/GetTree", request, pb.GetTreeResponse)
    sizes = [page.ByteSize() async for page in pages]
    assert sum(sizes) > MESSAGE_BYTES > max(sizes)


async def test_grp_03_what_is_read_is_received_by_default(target: Target) -> None:
    data = fresh(10_000_000)
    digest = await target.put(data)
    request = bs.ReadRequest(resource_name=target.resource(digest))
    sizes = [len(one.data) async for one in target.streamed("ByteStream/Read", request, bs.ReadResponse)]
    assert sum(sizes) == len(data)


async def _upload_wide_tree(target: Target, *, directories: int, files: int) -> pb.Digest:
    """Upload a tree of so many directories, each of so many files, that is not to be sent in one message."""
    root = pb.Directory()
    for number in range(directories):
        child = pb.Directory()
        for index in range(files):
            child.files.add(name=f"{number:03}-a-file-with-a-name-of-some-length-{index:06}", digest=digest_of(b""))
        root.directories.add(name=f"{number:03}", digest=await target.put(child.SerializeToString()))
    return await target.put(root.SerializeToString())


async def test_grp_04_a_missing_action_is_told_in_the_details(target: Target) -> None:
    action = digest_of(fresh())
    with refused(grpc.StatusCode.FAILED_PRECONDITION) as refusal:
        await started(target, execute_request(target, action))
    (violation,) = refusal.detail(error_details_pb2.PreconditionFailure).violations
    assert (violation.type, violation.subject) == ("MISSING", f"blobs/{action.hash}/{action.size_bytes}")


async def test_grp_05_the_status_and_its_details_agree(target: Target) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        await target.at("no instance of this näme")
    if refusal.status is None:
        pytest.skip("not testable here: there are no details")
    assert (refusal.status.code, refusal.status.message) == (refusal.code.value[0], refusal.message)


@pytest.mark.parametrize("letter", ["a", "ü", "%"])
async def test_grp_06_trailers_stay_below_8_kib(target: Target, letter: str) -> None:
    name = letter * 6_000
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        await target.read(name)
    size = sum(len(key) + len(value) + 32 for key, value in refusal.trailers) + 3 * len(refusal.message.encode())
    assert size < TRAILER_BYTES


async def test_grp_07_a_call_that_waits_ends_with_its_deadline_and_the_action_goes_on(target: Target) -> None:
    operation = await started(target, execute_request(target, await upload(target, Script("sleep 60"))))
    waiting = pb.WaitExecutionRequest(name=operation.name)
    with refused(DEADLINE_EXCEEDED):
        held = target.streamed("Execution/WaitExecution", waiting, operations_pb2.Operation, timeout=0.3)
        [one async for one in held]
    found = operations_pb2.GetOperationRequest(name=operation.name)
    assert not (await target.unary("Operations/GetOperation", found, operations_pb2.Operation)).done
    await cancel(target, operation)


async def test_grp_07_a_long_read_ends_with_its_deadline(target: Target) -> None:
    digest = await target.put(fresh(32 * 1024 * 1024))
    request = bs.ReadRequest(resource_name=target.resource(digest))
    with refused(DEADLINE_EXCEEDED):
        # As slow as a reader can be: it takes one message.
        read = target.streamed("ByteStream/Read", request, bs.ReadResponse, timeout=0.5)
        async for _ in read:
            await asyncio.sleep(0.2)
    assert not await target.find_missing([digest])


async def test_grp_08_frequent_pings_do_not_cut_a_connection(target: Target) -> None:
    options = [
        ("grpc.keepalive_time_ms", 100),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    async with connected(target.kind, target.address, target.instance, options=options) as pinging:
        await pinging.ask_capabilities()
        assert pinging.channel.get_state() is grpc.ChannelConnectivity.READY
        # A server that minds pings hangs up after a few of them.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await pinging.channel.wait_for_state_change(grpc.ChannelConnectivity.READY)


async def test_grp_09_a_service_that_ends_says_so(target: Target, own_grid: Grid) -> None:
    operation = await started(target, execute_request(target, await upload(target, Script("sleep 60"))))
    waiting = target.streamed(
        "Execution/WaitExecution", pb.WaitExecutionRequest(name=operation.name), operations_pb2.Operation
    )
    assert (await anext(waiting)).name == operation.name
    mark = own_grid.mark()
    os.kill(own_grid.pid("scheduler"), signal.SIGTERM)
    with refused(grpc.StatusCode.UNAVAILABLE):
        [one async for one in waiting]
    await asyncio.to_thread(own_grid.wait_well_again, mark)
    # It is durable: nobody has cancelled it.
    found = operations_pb2.GetOperationRequest(name=operation.name)
    assert not (await target.unary("Operations/GetOperation", found, operations_pb2.Operation)).done
    await cancel(target, operation)


async def test_grp_09_its_health_turns_before_it_ends(own_grid: Grid) -> None:
    address = f"unix:{own_grid.data}/run/scheduler.sock"
    async with connected("direct", address, "main") as scheduler:
        told = scheduler.streamed("Health/Watch", health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse)
        assert (await anext(told)).status == health_pb2.HealthCheckResponse.SERVING
        mark = own_grid.mark()
        os.kill(own_grid.pid("scheduler"), signal.SIGTERM)
        assert (await anext(told)).status == health_pb2.HealthCheckResponse.NOT_SERVING
    await asyncio.to_thread(own_grid.wait_well_again, mark)


async def test_grp_10_a_hundred_streams_share_a_connection(target: Target) -> None:
    blobs = [fresh(2_000) for _ in range(100)]
    all_open = asyncio.Barrier(len(blobs))

    async def slowly(data: bytes) -> AsyncIterator[bs.WriteRequest]:
        first, last = write_requests(target.upload_name(digest_of(data)), chunks_of(data, 1_000))
        yield first
        await all_open.wait()
        yield last

    answers = await asyncio.gather(*(target.upload(slowly(data)) for data in blobs))
    assert [one.committed_size for one in answers] == [2_000] * 100


async def test_grp_11_messages_may_be_compressed(target: Target) -> None:
    data = fresh(500) * 1_000
    request = pb.BatchUpdateBlobsRequest(instance_name=target.instance)
    request.requests.add(digest=digest_of(data), data=data)
    answer = await target.unary(
        "ContentAddressableStorage/BatchUpdateBlobs",
        request,
        pb.BatchUpdateBlobsResponse,
        compression=grpc.Compression.Gzip,
    )
    assert [one.status.code for one in answer.responses] == [0]
    requests = write_requests(target.upload_name(digest_of(data[1:])), chunks_of(data[1:]))
    assert (await target.upload(requests, compression=grpc.Compression.Gzip)).committed_size == len(data) - 1
    assert await target.read(target.resource(digest_of(data))) == data


async def test_grp_12_too_much_at_once_is_answered_one_way_or_another(target: Target) -> None:
    request = pb.GetActionResultRequest(instance_name=target.instance, action_digest=digest_of(fresh()))

    async def ask() -> grpc.StatusCode:
        with refused(
            grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED
        ) as refusal:
            await target.unary("ActionCache/GetActionResult", request, pb.ActionResult)
        return refusal.code

    codes = await asyncio.gather(*(ask() for _ in range(2_000)))
    assert grpc.StatusCode.NOT_FOUND in codes
    assert not await target.find_missing([await target.put(b"hello")])


@pytest.mark.parametrize(
    "method",
    [
        "Capabilities/GetCapabilities",
        "ContentAddressableStorage/FindMissingBlobs",
        "ContentAddressableStorage/BatchUpdateBlobs",
        "ContentAddressableStorage/BatchReadBlobs",
        "ActionCache/GetActionResult",
        "ActionCache/UpdateActionResult",
        "ByteStream/QueryWriteStatus",
        "Operations/GetOperation",
    ],
)
async def test_grp_13_what_goes_wrong_inside_is_not_told(target: Target, method: str) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL) as refusal:
        await target.raw(method, b"\xff\xff\xff")
    _tells_no_inner_things(refusal.message)


async def test_grp_13_an_odd_document_is_no_inner_fault(target: Target) -> None:
    junk = await target.put(b"\xff" + fresh(20))
    with refused(grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION) as refusal:
        await run_action(target, junk)
    _tells_no_inner_things(refusal.message)


def _tells_no_inner_things(message: str) -> None:
    for inner in ("Traceback", 'File "', ".py", "Exception", "site-packages"):
        assert inner not in message


async def test_grp_14_streams_that_are_given_up_leave_nothing_behind(target: Target, own_grid: Grid) -> None:
    digest = await target.put(fresh(3 * 1024 * 1024))
    action = await upload(target, Script("sleep 60"))
    operation = await started(target, execute_request(target, action))
    read = bs.ReadRequest(resource_name=target.resource(digest))
    waiting = pb.WaitExecutionRequest(name=operation.name)

    async def give_up() -> None:
        await anext(target.streamed("ByteStream/Read", read, bs.ReadResponse))
        await anext(target.streamed("Execution/WaitExecution", waiting, operations_pb2.Operation))
        first, _ = write_requests(target.upload_name(digest_of(fresh())), [b"x", b"y"])
        upload = asyncio.create_task(target.upload(kept_open([first])))
        await asyncio.sleep(0)
        upload.cancel()
        await asyncio.wait({upload})

    await asyncio.gather(*(give_up() for _ in range(5)))
    before = {service: _open_files(own_grid, service) for service in ("cas", "scheduler")}
    for _ in range(20):
        await asyncio.gather(*(give_up() for _ in range(5)))
    await cancel(target, operation)
    async with asyncio.timeout(20):
        while any(  # noqa: ASYNC110  # another process sets no event
            _open_files(own_grid, service) > count + 5 for service, count in before.items()
        ):
            await asyncio.sleep(0.1)
    assert not await target.find_missing([digest])


def _open_files(grid: Grid, service: str) -> int:
    return len(os.listdir(f"/proc/{grid.pid(service)}/fd"))


# A Unix socket of the CAS, and a TCP port of the gateway, are what all other tests go through.
@pytest.mark.parametrize(
    ("service", "kind_of_address"), [("cas", "tcp"), ("cas", "ipv6"), ("gateway", "ipv6"), ("gateway", "unix")]
)
async def test_grp_15_tcp_ipv6_and_unix_sockets_are_served(own_grid: Grid, service: str, kind_of_address: str) -> None:
    match kind_of_address:
        case "tcp":
            address = f"127.0.0.1:{free_ports(1)[0]}"
        case "ipv6":
            address = f"[::1]:{_free_port_of_ipv6()}"
        case _:
            address = f"unix:{own_grid.data}/run/second-{service}.sock"
    with second_process(own_grid, service, address, ENVIRONMENT):
        async with connected("direct", address, "main") as there:
            await asyncio.wait_for(there.channel.channel_ready(), CALL_SECONDS)
            assert not await there.find_missing([await there.put(b"hello")])


def _free_port_of_ipv6() -> int:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as free:
            port: int = free.getsockname()[1]
            return port
    except OSError:
        pytest.skip("not testable here: this machine has no IPv6")


async def test_grp_16_plain_http_is_answered_and_harms_nothing(target: Target) -> None:
    unix = target.address.removeprefix("unix:") if target.address.startswith("unix:") else None
    host = "service" if unix else target.address
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=unix)) as client:
        try:
            answer = await client.get(f"http://{host}/v2/{target.instance}/capabilities", timeout=10)
        except httpx.RemoteProtocolError:
            pass  # hung up on: nothing but gRPC is spoken here
        else:
            assert answer.status_code in (200, 404, 415)
    await target.ask_capabilities()
