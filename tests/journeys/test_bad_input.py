"""What is wrong with a request is told in a clear message, and harms nobody."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import uuid4

import pytest
from google.rpc import code_pb2

from gridwright.digest import Digest, DigestFunction
from gridwright.errors import FailedPrecondition, InvalidRequest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import (
    ActionCacheClient,
    CapabilitiesClient,
    ContentAddressableStorageClient,
    ExecutionClient,
)
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from gridwright.protos.google.bytestream.bytestream_rpc import ByteStreamClient
from gridwright.wire.digests import digest_message
from gridwright.wire.rpc import Channel
from tests.journeys.build_client import Action, BuildClient, missing_subjects

SHA256 = DigestFunction.SHA256
SOME = pb.Digest(hash="a" * 64, size_bytes=1)


def wrong_hash(data: bytes) -> Digest:
    return SHA256.digest(data + b"other")._replace(size_bytes=len(data))


def wrong_size(data: bytes) -> Digest:
    return SHA256.digest(data)._replace(size_bytes=len(data) + 1)


@pytest.mark.parametrize("wrong", [wrong_hash, wrong_size])
async def test_bytes_that_are_not_those_of_the_digest_are_refused_in_a_batch(
    client: BuildClient, wrong: Callable[[bytes], Digest]
) -> None:
    good, bad = random.randbytes(100), random.randbytes(100)
    request = pb.BatchUpdateBlobsRequest(
        instance_name="main",
        requests=[
            pb.BatchUpdateBlobsRequest.Request(digest=digest_message(wrong(bad)), data=bad),
            pb.BatchUpdateBlobsRequest.Request(digest=digest_message(SHA256.digest(good)), data=good),
        ],
    )
    answer = await ContentAddressableStorageClient(client.channel).batch_update_blobs(request, timeout=30)
    statuses = {response.digest.hash: response.status for response in answer.responses}
    assert statuses[wrong(bad).hash].code == code_pb2.INVALID_ARGUMENT
    assert statuses[wrong(bad).hash].message
    assert statuses[SHA256.digest(good).hash].code == code_pb2.OK
    assert await client.store.missing({wrong(bad), SHA256.digest(good)}) == {wrong(bad)}


@pytest.mark.parametrize("wrong", [wrong_hash, wrong_size])
@pytest.mark.parametrize("size_bytes", [100, 3_000_000])
async def test_bytes_that_are_not_those_of_the_digest_are_refused_in_a_stream(
    client: BuildClient, wrong: Callable[[bytes], Digest], size_bytes: int
) -> None:
    data = random.randbytes(size_bytes)
    digest = wrong(data)
    name = f"main/uploads/{uuid4()}/blobs/{digest}"

    async def requests() -> AsyncIterator[bs.WriteRequest]:
        for start in range(0, len(data), 1_000_000):
            part = data[start : start + 1_000_000]
            end = start + len(part)
            yield bs.WriteRequest(resource_name=name, write_offset=start, data=part, finish_write=end == len(data))

    with pytest.raises(InvalidRequest) as caught:
        await ByteStreamClient(client.channel).write(requests(), timeout=30)
    assert str(caught.value)
    assert await client.store.missing({digest}) == {digest}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "main",
        "main/blobs",
        f"main/blobs/{'a' * 64}",
        f"main/blobs/{'a' * 63}/1",
        f"main/blobs/{'A' * 64}/1",
        f"main/blobs/{'a' * 64}/-1",
        f"main/blobs/{'a' * 64}/1e3",
        f"main/blobs/../../etc/passwd/{'a' * 64}/1",
        f"main/compressed-blobs/lzma/{'a' * 64}/1",
    ],
)
async def test_a_malformed_name_to_read_is_refused(client: BuildClient, name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        async for _ in ByteStreamClient(client.channel).read(bs.ReadRequest(resource_name=name), timeout=30):
            pass
    assert "resource name" in str(caught.value) or "unknown instance" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["", f"main/blobs/{'a' * 64}/1", "main/uploads/id/blobs", f"main/uploads/blobs/{'a' * 64}/1"],
)
async def test_a_malformed_name_to_write_is_refused(client: BuildClient, name: str) -> None:
    async def requests() -> AsyncIterator[bs.WriteRequest]:
        yield bs.WriteRequest(resource_name=name, data=b"x", finish_write=True)

    with pytest.raises(InvalidRequest, match="resource name"):
        await ByteStreamClient(client.channel).write(requests(), timeout=30)


async def _execute(channel: Channel) -> None:
    request = pb.ExecuteRequest(instance_name="nobody", action_digest=SOME)
    async for _ in ExecutionClient(channel).execute(request, timeout=30):
        pass


async def _read(channel: Channel) -> None:
    request = bs.ReadRequest(resource_name=f"nobody/blobs/{'a' * 64}/1")
    async for _ in ByteStreamClient(channel).read(request, timeout=30):
        pass


CALLS: dict[str, Callable[[Channel], Awaitable[object]]] = {
    "GetCapabilities": lambda channel: CapabilitiesClient(channel).get_capabilities(
        pb.GetCapabilitiesRequest(instance_name="nobody"), timeout=30
    ),
    "FindMissingBlobs": lambda channel: ContentAddressableStorageClient(channel).find_missing_blobs(
        pb.FindMissingBlobsRequest(instance_name="nobody", blob_digests=[SOME]), timeout=30
    ),
    "GetActionResult": lambda channel: ActionCacheClient(channel).get_action_result(
        pb.GetActionResultRequest(instance_name="nobody", action_digest=SOME), timeout=30
    ),
    "Execute": _execute,
    "Read": _read,
}


@pytest.mark.parametrize("call", CALLS)
async def test_an_unknown_instance_is_named_with_those_that_there_are(client: BuildClient, call: str) -> None:
    with pytest.raises(InvalidRequest, match=r"unknown instance name 'nobody'.*'main'"):
        await CALLS[call](client.channel)


async def test_every_missing_input_is_named_in_the_response(client: BuildClient) -> None:
    """As violations of ExecuteResponse.status, so that a client can upload them and try again (checklist ERR-01)."""
    inputs = {f"in{number}": random.randbytes(32) for number in range(3)}
    action, blobs = Action(["/bin/cat", *inputs], inputs).documents()
    absent = {SHA256.digest(inputs["in0"]), SHA256.digest(inputs["in2"])}
    await client.upload({digest: blob for digest, blob in blobs.items() if digest not in absent})

    response = await client.execute_digest(action)

    assert response.status.code == code_pb2.FAILED_PRECONDITION
    assert set(missing_subjects(response.status)) == {f"blobs/{digest}" for digest in absent}
    assert "missing" in response.status.message
    await client.upload(blobs)
    assert (await client.execute_digest(action)).status.code == code_pb2.OK


async def test_a_missing_input_root_or_command_is_named(client: BuildClient) -> None:
    action, blobs = Action(["/bin/true"], {"in": random.randbytes(32)}).documents()
    only = {digest: blob for digest, blob in blobs.items() if digest == action}
    await client.upload(only)
    response = await client.execute_digest(action)
    assert response.status.code == code_pb2.FAILED_PRECONDITION
    parsed = pb.Action.FromString(blobs[action])
    command = f"blobs/{parsed.command_digest.hash}/{parsed.command_digest.size_bytes}"
    assert command in missing_subjects(response.status)


async def test_a_missing_action_is_named(client: BuildClient) -> None:
    """In the call's own status, or in the response's: either is right (checklist EXE-13)."""
    absent = Digest(SHA256, random.randbytes(32).hex(), 123)
    said = ""
    try:
        response = await client.execute_digest(absent)
        said = " ".join(missing_subjects(response.status))
    except FailedPrecondition as error:
        said = str(error)
    assert str(absent) in said


async def test_a_command_that_does_not_exist_is_an_exit_code_and_a_reason(client: BuildClient) -> None:
    response = await client.execute(Action(["/no/such/command", str(uuid4())]))
    assert (response.status.code, response.result.exit_code) == (code_pb2.OK, 127)
    assert b"/no/such/command" in await client.stderr(response.result)


async def test_outputs_that_were_not_made_are_left_out(client: BuildClient) -> None:
    response = await client.execute(
        Action(["/bin/sh", "-c", f"echo made > made # {uuid4()}"], outputs=["absent", "made", "no/such/either"])
    )
    assert (response.status.code, response.result.exit_code) == (code_pb2.OK, 0)
    assert [file.path for file in response.result.output_files] == ["made"]


async def test_a_command_that_takes_too_long_is_ended_with_what_it_said_so_far(client: BuildClient) -> None:
    response = await client.execute(Action(["/bin/sh", "-c", f"echo begun; sleep 60 # {uuid4()}"], timeout_seconds=1))
    assert response.status.code == code_pb2.DEADLINE_EXCEEDED
    assert response.status.message == "execution timeout exceeded"  # the words that siso looks for (checklist ERR-08)
    assert await client.stdout(response.result) == b"begun\n"


async def test_100_megabytes_of_stdout_arrive(client: BuildClient) -> None:
    size_bytes = 100_000_000
    response = await client.execute(
        Action(["/bin/sh", "-c", f"head -c {size_bytes} /dev/zero | tr '\\0' x # {uuid4()}"])
    )
    assert (response.status.code, response.result.exit_code) == (code_pb2.OK, 0)
    stdout = response.result.stdout_digest
    assert stdout.size_bytes == size_bytes
    seen_bytes = 0
    async for chunk in client.store.get(Digest(SHA256, stdout.hash, stdout.size_bytes)):
        assert chunk.count(b"x") == len(chunk)
        seen_bytes += len(chunk)
    assert seen_bytes == size_bytes
