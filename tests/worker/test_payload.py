"""What a lease asks for."""

from __future__ import annotations

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from gridwright.blobs.memory import MemoryStore
from gridwright.digest import DigestFunction
from gridwright.errors import InternalError, InvalidDigest, InvalidRequest, MissingBlobs
from gridwright.instances import Instance, InstanceSettings
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2
from gridwright_worker.payload import operations_in, read_payload
from tests.worker.actions import SHA256, message_of, put_bytes

INSTANCE = Instance.from_settings(InstanceSettings(name="main"))
STORE = MemoryStore(max_bytes=1000_000)
ACTION = pb.Action(command_digest=message_of(SHA256.digest(b"c")), input_root_digest=message_of(SHA256.empty))


def lease(payload: Message) -> bots_pb2.Lease:
    lease = bots_pb2.Lease(id="main/1")
    lease.payload.Pack(payload)
    return lease


def operation(action: bytes, function: DigestFunction) -> pb.ExecuteOperationMetadata:
    return pb.ExecuteOperationMetadata(
        action_digest=message_of(function.digest(action)),
        digest_function=int(function),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("function", list(DigestFunction))
async def test_the_function_is_that_under_which_the_scheduler_names_the_action(function: DigestFunction) -> None:
    operations = [operation(b"another", DigestFunction.MD5), operation(ACTION.SerializeToString(), function)]
    trailers = [("executeoperationmetadata-bin", one.SerializeToString()) for one in operations]
    payload = await read_payload(
        lease(ACTION), operations_in([("other", "x"), ("executeoperationmetadata-bin", b"\xff"), *trailers]),
        INSTANCE, STORE,
    )  # fmt: skip
    assert payload == (ACTION, function)


async def test_a_scheduler_that_names_none_is_taken_to_mean_the_usual_one() -> None:
    assert (await read_payload(lease(ACTION), [], INSTANCE, STORE)).function is SHA256


async def test_a_digest_stands_for_the_action_in_the_cas() -> None:
    digest = await put_bytes(STORE, ACTION.SerializeToString())
    assert await read_payload(lease(digest), [], INSTANCE, STORE) == (ACTION, SHA256)
    with pytest.raises(MissingBlobs):
        await read_payload(lease(message_of(SHA256.digest(b"absent"))), [], INSTANCE, STORE)


async def test_anything_else_is_refused() -> None:
    with pytest.raises(InternalError, match="payload type"):
        await read_payload(lease(pb.Command()), [], INSTANCE, STORE)
    with pytest.raises(InvalidDigest):
        await read_payload(lease(pb.Action()), [], INSTANCE, STORE)
    broken = bots_pb2.Lease(payload=AnyMessage(type_url=lease(ACTION).payload.type_url, value=b"\xff"))
    with pytest.raises(InvalidRequest, match="not an Action"):
        await read_payload(broken, [], INSTANCE, STORE)
