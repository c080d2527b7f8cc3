"""ActionCache.UpdateActionResult (checklist ACU)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import pytest
from google.rpc import error_details_pb2

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.actions import Script, upload
from tests.conformance.blobs import digest_of, fresh
from tests.conformance.results import a_result, an_action, get_result, update_result
from tests.conformance.small_grid import LARGEST_RESULT_BYTES
from tests.conformance.target import Target, refused

FAILED_PRECONDITION, INVALID_ARGUMENT = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND, PERMISSION_DENIED = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED
RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
SOUND = digest_of(b"an output")
SHORT, UPPER = pb.Digest(hash="abc", size_bytes=1), pb.Digest(hash=SOUND.hash.upper(), size_bytes=9)
NEGATIVE = pb.Digest(hash=SOUND.hash, size_bytes=-1)
#: Results that are none, by what is wrong with them.
UNSOUND: dict[str, Callable[[], pb.ActionResult]] = {
    "absolute file": lambda: a_result(output_files=[pb.OutputFile(path="/a", digest=SOUND)]),
    "absolute directory": lambda: a_result(output_directories=[pb.OutputDirectory(path="/a", tree_digest=SOUND)]),
    "absolute symlink": lambda: a_result(output_symlinks=[pb.OutputSymlink(path="/a", target="b")]),
    "absolute file symlink": lambda: a_result(output_file_symlinks=[pb.OutputSymlink(path="/a", target="b")]),
    "absolute directory symlink": lambda: a_result(output_directory_symlinks=[pb.OutputSymlink(path="/a", target="b")]),
    "file without a digest": lambda: a_result(output_files=[pb.OutputFile(path="a")]),
    "file with a short digest": lambda: a_result(output_files=[pb.OutputFile(path="a", digest=SHORT)]),
    "file with an upper-case digest": lambda: a_result(output_files=[pb.OutputFile(path="a", digest=UPPER)]),
    "file of a negative size": lambda: a_result(output_files=[pb.OutputFile(path="a", digest=NEGATIVE)]),
    "directory without a digest": lambda: a_result(output_directories=[pb.OutputDirectory(path="a")]),
    "short tree": lambda: a_result(output_directories=[pb.OutputDirectory(path="a", tree_digest=SHORT)]),
    "short root": lambda: a_result(output_directories=[pb.OutputDirectory(path="a", root_directory_digest=SHORT)]),
    "short stdout": lambda: a_result(stdout_digest=SHORT),
    "negative stderr": lambda: a_result(stderr_digest=NEGATIVE),
}


async def test_acu_01_a_result_is_stored_and_returned(target: Target) -> None:
    action = an_action()
    result = a_result(output_files=[pb.OutputFile(path="a", digest=await target.put(fresh()))])
    result.execution_metadata.auxiliary_metadata.add().Pack(pb.Digest(hash="what", size_bytes=4))
    assert await update_result(target, action, result) == result
    assert await get_result(target, action) == result


@pytest.mark.parametrize("what", UNSOUND)
async def test_acu_02_a_result_that_is_none_is_refused(target: Target, what: str) -> None:
    action = an_action()
    with refused(INVALID_ARGUMENT):
        await update_result(target, action, UNSOUND[what]())
    with refused(NOT_FOUND):
        await get_result(target, action)


@pytest.mark.parametrize("digest", [pb.Digest(), SHORT, UPPER, NEGATIVE], ids=["none", "short", "upper", "negative"])
async def test_acu_02_an_action_digest_that_is_none_is_refused(target: Target, digest: pb.Digest) -> None:
    with refused(INVALID_ARGUMENT):
        await update_result(target, digest, a_result())


async def test_acu_02_a_request_without_a_result_is_refused(target: Target) -> None:
    request = pb.UpdateActionResultRequest(instance_name=target.instance, action_digest=an_action())
    with refused(INVALID_ARGUMENT):
        await target.unary("ActionCache/UpdateActionResult", request, pb.ActionResult)


async def test_acu_03_an_unknown_action_is_refused_where_that_is_asked_for(target: Target, strict: Target) -> None:
    action = an_action()
    with refused(FAILED_PRECONDITION) as refusal:
        await update_result(strict, action, a_result())
    assert _missing(refusal.detail(error_details_pb2.PreconditionFailure)) == {_subject(action)}
    await update_result(target, action, a_result())
    await get_result(target, action)


async def test_acu_03_an_action_without_its_command_is_refused_where_that_is_asked_for(strict: Target) -> None:
    command = digest_of(fresh())
    action = pb.Action(command_digest=command, input_root_digest=digest_of(b""))
    uploads = await strict.at("main")
    digest = await uploads.put(action.SerializeToString())
    with refused(FAILED_PRECONDITION) as refusal:
        await update_result(strict, digest, a_result())
    assert _missing(refusal.detail(error_details_pb2.PreconditionFailure)) == {_subject(command)}


async def test_acu_04_no_room_is_resource_exhausted(small: Target) -> None:
    action = an_action()
    links = [pb.OutputSymlink(path=f"{number}", target="x" * 1000) for number in range(LARGEST_RESULT_BYTES // 1000)]
    with refused(RESOURCE_EXHAUSTED):
        await update_result(small, action, a_result(output_symlinks=links))
    with refused(NOT_FOUND):
        await get_result(small, action)


@pytest.mark.parametrize("instance", ["scheduler_writes", "read_only"])
async def test_acu_05_who_may_not_write_hears_so(instance: str, scheduler_writes: Target, read_only: Target) -> None:
    there = {"scheduler_writes": scheduler_writes, "read_only": read_only}[instance]
    assert not there.capabilities.cache_capabilities.action_cache_update_capabilities.update_enabled
    action = an_action()
    with refused(PERMISSION_DENIED):
        await update_result(there, action, a_result())
    with refused(NOT_FOUND):
        await get_result(there, action)


async def test_acu_06_contents_that_came_inside_go_to_the_cas(target: Target) -> None:
    action, out, err, data = an_action(), fresh(), fresh(), fresh()
    file = pb.OutputFile(path="a", digest=digest_of(data), contents=data)
    await update_result(target, action, a_result(stdout_raw=out, stderr_raw=err, output_files=[file]))
    result = await get_result(target, action)
    assert (result.stdout_raw, result.stderr_raw, result.output_files[0].contents) == (b"", b"", b"")
    for digest, sent in ((result.stdout_digest, out), (result.stderr_digest, err), (file.digest, data)):
        assert await target.read(target.resource(digest)) == sent


@pytest.mark.parametrize("priority", [0, 5, -5])
async def test_acu_07_a_priority_is_taken(target: Target, priority: int) -> None:
    action = an_action()
    await update_result(target, action, a_result(), results_cache_policy=pb.ResultsCachePolicy(priority=priority))
    await get_result(target, action)


async def test_acu_08_the_last_one_wins_as_a_whole(target: Target) -> None:
    action = an_action()
    versions = [
        a_result(output_symlinks=[pb.OutputSymlink(path=f"{n}", target=version) for n in range(200)])
        for version in ("first", "second")
    ]
    await update_result(target, action, versions[0])
    writing = asyncio.create_task(_write_by_turns(target, action, versions))
    while not writing.done():
        assert await get_result(target, action) in versions
    await writing
    assert await get_result(target, action) == versions[-1]


async def _write_by_turns(target: Target, action: pb.Digest, versions: list[pb.ActionResult]) -> None:
    for _ in range(20):
        for version in versions:
            await update_result(target, action, version)


async def test_acu_09_a_failed_result_is_kept_if_a_client_sends_it(target: Target) -> None:
    action = an_action()
    await update_result(target, action, a_result(exit_code=1))
    assert (await get_result(target, action)).exit_code == 1


async def test_acu_10_a_result_may_come_before_its_outputs(target: Target) -> None:
    data = {an_action().hash: fresh() for _ in range(2)}
    for hash_, output in data.items():
        result = a_result(output_files=[pb.OutputFile(path="a", digest=digest_of(output))])
        await update_result(target, pb.Digest(hash=hash_, size_bytes=100), result)
    early, late = data
    with refused(NOT_FOUND):
        await get_result(target, pb.Digest(hash=early, size_bytes=100))
    await target.put(data[late])
    found = await get_result(target, pb.Digest(hash=late, size_bytes=100))
    assert found.output_files[0].digest == digest_of(data[late])


async def test_acu_10_outputs_must_be_there_where_that_is_asked_for(strict: Target) -> None:
    action = await upload(await strict.at("main"), Script("true"))
    lacking = digest_of(fresh())
    with refused(FAILED_PRECONDITION) as refusal:
        await update_result(strict, action, a_result(output_files=[pb.OutputFile(path="a", digest=lacking)]))
    assert _missing(refusal.detail(error_details_pb2.PreconditionFailure)) == {_subject(lacking)}
    await update_result(strict, action, a_result())
    await get_result(strict, action)


async def test_acu_11_a_result_of_an_action_that_must_not_be_cached_is_not_stored(target: Target) -> None:
    action = await upload(target, Script("true", action={"do_not_cache": True, "salt": fresh(16)}))
    codes = set()
    try:
        await update_result(target, action, a_result())
    except grpc.aio.AioRpcError as error:
        codes.add(error.code())
    assert codes <= {FAILED_PRECONDITION}
    with refused(NOT_FOUND):
        await get_result(target, action)


async def test_acu_12_fields_of_newer_clients_do_no_harm(target: Target) -> None:
    action = an_action()
    later = b"\xba\x3e\x05later"  # field 999
    result = pb.ActionResult.FromString(a_result(stdout_digest=digest_of(b"")).SerializeToString() + later)
    await update_result(target, action, result)
    assert (await get_result(target, action)).stdout_digest == digest_of(b"")


def _missing(failure: error_details_pb2.PreconditionFailure) -> set[str]:
    assert {violation.type for violation in failure.violations} == {"MISSING"}
    return {violation.subject for violation in failure.violations}


def _subject(digest: pb.Digest) -> str:
    return f"blobs/{digest.hash}/{digest.size_bytes}"
