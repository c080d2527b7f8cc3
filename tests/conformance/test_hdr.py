"""Request metadata and headers (checklist HDR)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from google.longrunning import operations_pb2

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.actions import Script, cancel, execute_request, started, upload
from tests.conformance.blobs import fresh
from tests.conformance.every_call import CALLS
from tests.conformance.target import Target

KEY = "build.bazel.remote.execution.v2.requestmetadata-bin"
UNREADABLE = {"no message": b"\xff", "empty": b"", "cut off": b"\x0a\x7fbazel", "unknown fields": b"\xf2\x3e\x03abc"}


def metadata(invocation: str = "an invocation", *, action_id: str = "an action") -> pb.RequestMetadata:
    return pb.RequestMetadata(
        tool_details=pb.ToolDetails(tool_name="a tool", tool_version="1.2.3"),
        action_id=action_id,
        tool_invocation_id=invocation,
        correlated_invocations_id="a build",
        action_mnemonic="CppCompile",
        target_id="//a:b",
        configuration_id="k8-fastbuild",
    )


@pytest.mark.parametrize("method", CALLS)
async def test_hdr_01_request_metadata_may_be_sent_with_every_call(target: Target, method: str) -> None:
    await CALLS[method](replace(target, metadata=((KEY, metadata().SerializeToString()),)))


@pytest.mark.parametrize("sent", UNREADABLE.values(), ids=UNREADABLE.keys())
@pytest.mark.parametrize("method", CALLS)
async def test_hdr_02_request_metadata_that_is_none_fails_no_call(target: Target, method: str, sent: bytes) -> None:
    await CALLS[method](replace(target, metadata=((KEY, sent),)))


async def test_hdr_03_all_fields_are_kept_with_the_operation(target: Target) -> None:
    action = await upload(target, Script("sleep 60"))
    # Some servers write the digest there themselves, which is what the field is meant for.
    sent = metadata(action_id=action.hash)
    telling = replace(target, metadata=((KEY, sent.SerializeToString()),))
    operation = await started(telling, execute_request(target, action))
    told = await _told(target, operation)
    assert action.hash in told.action_id
    told.action_id = sent.action_id
    assert told == sent
    await cancel(target, operation)


async def test_hdr_04_operations_of_one_action_keep_each_their_own(target: Target) -> None:
    action = await upload(target, Script("sleep 60", action={"salt": fresh()}))
    operations = {}
    for invocation in ("first", "second"):
        telling = replace(target, metadata=((KEY, metadata(invocation).SerializeToString()),))
        operations[invocation] = await started(telling, execute_request(target, action))
    assert operations["first"].name != operations["second"].name
    for invocation, operation in operations.items():
        assert (await _told(target, operation)).tool_invocation_id == invocation
        await cancel(target, operation)


async def _told(target: Target, operation: operations_pb2.Operation) -> pb.RequestMetadata:
    """Return what is told of the call that began *operation*, in a trailer as BuildGrid does it."""
    request = operations_pb2.GetOperationRequest(name=operation.name)
    sent = (await target.trailers("Operations/GetOperation", request)).get(KEY, b"")
    assert isinstance(sent, bytes)
    return pb.RequestMetadata.FromString(sent)


@pytest.mark.parametrize("method", CALLS)
async def test_hdr_05_headers_that_nobody_knows_are_ignored(target: Target, method: str) -> None:
    headers = (("x-nobody-knows", "this"), ("re-metadata-bin", b"\x00\xff"))
    await CALLS[method](replace(target, metadata=headers))


@pytest.mark.parametrize("method", CALLS)
async def test_hdr_06_8_kib_of_request_metadata_are_taken(target: Target, method: str) -> None:
    long = metadata()
    long.target_id = "//" + "a" * (8 * 1024 - long.ByteSize() - 10)
    await CALLS[method](replace(target, metadata=((KEY, long.SerializeToString()),)))
