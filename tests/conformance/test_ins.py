"""Instance names (checklist INS)."""

from __future__ import annotations

from dataclasses import replace

import grpc
import pytest

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.blobs import digest_of
from tests.conformance.every_call import CALLS, HELLO, operations_of
from tests.conformance.target import Target, fresh, refused

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
RESERVED = ["blobs", "uploads", "actions", "actionResults", "operations", "capabilities", "compressed-blobs"]


@pytest.mark.parametrize("method", CALLS)
async def test_ins_01_the_empty_name_works(target: Target, method: str) -> None:
    await CALLS[method](replace(target, instance=""))


async def test_ins_01_operations_of_the_empty_name_work(target: Target) -> None:
    await operations_of(replace(target, instance=""))


@pytest.mark.parametrize("method", CALLS)
async def test_ins_02_a_name_with_slashes_works(nested: Target, method: str) -> None:
    await CALLS[method](nested)


async def test_ins_02_operations_of_a_name_with_slashes_work(nested: Target) -> None:
    await operations_of(nested)


@pytest.mark.parametrize("word", RESERVED)
@pytest.mark.parametrize("form", ["{word}", "main/{word}", "{word}/main", "a/{word}/b"])
async def test_ins_03_no_segment_is_a_word_of_resource_names(target: Target, word: str, form: str) -> None:
    with refused(INVALID_ARGUMENT):
        await CALLS["FindMissingBlobs"](replace(target, instance=form.format(word=word)))


@pytest.mark.parametrize("method", CALLS)
async def test_ins_04_an_unknown_instance_is_an_invalid_argument(target: Target, method: str) -> None:
    with refused(INVALID_ARGUMENT):
        await CALLS[method](replace(target, instance="no-such-instance"))


async def test_ins_05_a_blob_of_one_instance_is_not_in_another(target: Target, neighbour: Target) -> None:
    digest = await target.put(fresh())
    assert await neighbour.find_missing([digest]) == [digest]
    with refused(grpc.StatusCode.NOT_FOUND):
        await neighbour.read(neighbour.resource(digest))
    (answer,) = (await neighbour.batch_read([digest])).responses
    assert answer.status.code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_ins_05_a_result_of_one_instance_is_not_in_another(target: Target, neighbour: Target) -> None:
    action = digest_of(fresh())
    for one in (target, neighbour):
        await one.put(HELLO)
    update = pb.UpdateActionResultRequest(
        instance_name=target.instance,
        action_digest=action,
        action_result=pb.ActionResult(stdout_digest=digest_of(HELLO)),
    )
    await target.unary("ActionCache/UpdateActionResult", update, pb.ActionResult)
    get = pb.GetActionResultRequest(instance_name=target.instance, action_digest=action)
    await target.unary("ActionCache/GetActionResult", get, pb.ActionResult)
    get.instance_name = neighbour.instance
    with refused(grpc.StatusCode.NOT_FOUND):
        await neighbour.unary("ActionCache/GetActionResult", get, pb.ActionResult)


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("form", ["/main", "main/", "/"])
async def test_ins_06_a_slash_at_an_end_does_not_make_another_cache(target: Target, method: str, form: str) -> None:
    with refused(INVALID_ARGUMENT):
        await CALLS[method](replace(target, instance=form))
