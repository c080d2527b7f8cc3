"""ActionCache.GetActionResult (checklist ACG)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import pytest

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.blobs import digest_of, fresh
from tests.conformance.results import a_result, an_action, get_result, update_result
from tests.conformance.small_grid import IN_MEMORY_BELOW_BYTES, MEMORY_BYTES, RESULTS_IN_MEMORY
from tests.conformance.target import Target, refused
from tests.conformance.test_fmb import answered
from tests.journeys.grid import Grid

NOT_FOUND, UNAVAILABLE = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
PART_BYTES = MEMORY_BYTES // 20
#: Every kind of reference that a result has.
REFERENCES = (
    *("file", "stdout", "stderr", "tree", "file in the tree", "file below in the tree"),
    *("root directory", "directory below the root", "file in the root", "file below the root"),
)


@dataclass(frozen=True)
class Outputs:
    """A result that names a blob in every way there is, and what each of them is."""

    result: pb.ActionResult
    blobs: dict[str, bytes]


def outputs() -> Outputs:
    contents = {name: fresh() for name in REFERENCES}
    below = pb.Directory(files=[_node("file", contents["file below in the tree"])])
    root = pb.Directory(
        files=[_node("file", contents["file in the tree"])],
        directories=[pb.DirectoryNode(name="below", digest=digest_of(_encoded(below)))],
    )
    contents["tree"] = _encoded(pb.Tree(root=root, children=[below]))
    lower = pb.Directory(files=[_node("file", contents["file below the root"])])
    contents["directory below the root"] = _encoded(lower)
    upper = pb.Directory(
        files=[_node("file", contents["file in the root"])],
        directories=[pb.DirectoryNode(name="below", digest=digest_of(_encoded(lower)))],
    )
    contents["root directory"] = _encoded(upper)
    result = a_result(
        output_files=[pb.OutputFile(path="file", digest=digest_of(contents["file"]))],
        output_directories=[
            pb.OutputDirectory(path="tree", tree_digest=digest_of(contents["tree"])),
            pb.OutputDirectory(path="root", root_directory_digest=digest_of(contents["root directory"])),
        ],
        stdout_digest=digest_of(contents["stdout"]),
        stderr_digest=digest_of(contents["stderr"]),
    )
    return Outputs(result, contents)


def _node(name: str, data: bytes) -> pb.FileNode:
    return pb.FileNode(name=name, digest=digest_of(data))


def _encoded(message: pb.Directory | pb.Tree) -> bytes:
    return message.SerializeToString(deterministic=True)


async def test_acg_01_a_result_that_is_not_there_is_not_found(target: Target) -> None:
    with refused(NOT_FOUND):
        await get_result(target, an_action())


async def test_acg_01_what_is_no_digest_is_not_taken_for_a_miss(target: Target) -> None:
    for digest in (pb.Digest(), pb.Digest(hash="xyz", size_bytes=3), pb.Digest(hash="A" * 64, size_bytes=3)):
        with refused(INVALID_ARGUMENT):
            await get_result(target, digest)


async def test_acg_02_while_the_cas_does_not_answer_there_is_neither_a_hit_nor_a_miss(
    small: Target, small_grid: Grid
) -> None:
    action = await _stored_on_disk(small)
    with _frozen(small_grid.pid("cas")), refused(UNAVAILABLE):
        await get_result(small, action)
    await answered(small, (await get_result(small, action)).output_files[0].digest)


async def test_acg_02_a_cas_that_goes_and_comes_back_makes_no_misses(small: Target, small_grid: Grid) -> None:
    action = await _stored_on_disk(small)
    mark = small_grid.kill("cas")
    well_again = asyncio.create_task(asyncio.to_thread(small_grid.wait_well_again, mark))
    seen = set()
    while not well_again.done():
        try:
            assert (await get_result(small, action)).output_files
        except grpc.aio.AioRpcError as error:
            seen.add(error.code())
        await asyncio.wait([well_again], timeout=0.05)
    await well_again
    assert seen <= {UNAVAILABLE}


async def _stored_on_disk(small: Target) -> pb.Digest:
    """Store a result whose output outlives the process; return its action."""
    action = an_action()
    file = pb.OutputFile(path="file", digest=await small.put(fresh(IN_MEMORY_BELOW_BYTES)))
    await update_result(small, action, a_result(output_files=[file]))
    return action


@contextmanager
def _frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_acg_03_what_was_stored_comes_back(target: Target) -> None:
    action, stored = an_action(), outputs()
    await target.update(stored.blobs.values())
    stored.result.output_symlinks.add(path="link", target="file")
    await update_result(target, action, stored.result)
    assert await get_result(target, action) == stored.result


async def test_acg_04_outputs_of_a_result_in_use_stay_and_without_outputs_there_is_no_hit(small: Target) -> None:
    used, unused = an_action(), an_action()
    files = {}
    for action in (used, unused):
        digest = await small.put(fresh(PART_BYTES))
        files[action.hash] = pb.OutputFile(path="file", digest=digest)
        await update_result(small, action, a_result(output_files=[files[action.hash]]))
    for _ in range(40):
        await small.put(fresh(PART_BYTES))
        await get_result(small, used)
    assert await small.find_missing([files[used.hash].digest]) == []
    with refused(NOT_FOUND):
        await get_result(small, unused)


@pytest.mark.parametrize("lacking", REFERENCES)
async def test_acg_05_whatever_a_result_names_must_be_there(target: Target, lacking: str) -> None:
    action, stored = an_action(), outputs()
    await target.update(data for name, data in stored.blobs.items() if name != lacking)
    await update_result(target, action, stored.result)
    with refused(NOT_FOUND):
        await get_result(target, action)
    await target.put(stored.blobs[lacking])
    # Some servers drop a result that is not complete.
    await update_result(target, action, stored.result)
    assert (await get_result(target, action)).output_files == stored.result.output_files


async def _with_streams(target: Target, stdout: bytes, stderr: bytes) -> pb.Digest:
    """Store a result with these streams; return its action."""
    action = an_action()
    result = a_result(stdout_digest=await target.put(stdout), stderr_digest=await target.put(stderr))
    await update_result(target, action, result)
    return action


async def test_acg_06_streams_are_not_inside_unless_asked_for(target: Target) -> None:
    out, err = fresh(), fresh()
    result = await get_result(target, await _with_streams(target, out, err))
    assert (result.stdout_raw, result.stderr_raw) == (b"", b"")
    assert (result.stdout_digest, result.stderr_digest) == (digest_of(out), digest_of(err))


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_acg_07_a_small_stream_comes_inside_and_keeps_its_digest(target: Target, stream: str) -> None:
    data = fresh()
    action = await _with_streams(target, data, data)
    result = await get_result(target, action, **{f"inline_{stream}": True})
    assert getattr(result, f"{stream}_raw") == data
    assert getattr(result, f"{stream}_digest") == digest_of(data)
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    assert getattr(result, f"{other}_raw") == b""


@pytest.mark.parametrize("size", [4_000_000, 10 * 2**20])
async def test_acg_07_a_stream_too_large_for_a_message_stays_outside(target: Target, size: int) -> None:
    action = await _with_streams(target, fresh(8) + bytes(size - 8), fresh())
    # The client takes no more than gRPC's own limit.
    result = await get_result(target, action, inline_stdout=True, inline_stderr=True)
    assert (result.stdout_raw, result.stdout_digest.size_bytes) == (b"", size)


async def test_acg_08_files_come_inside_by_their_paths(target: Target) -> None:
    action, data = an_action(), {"a.txt": fresh(), "b.txt": fresh()}
    files = [pb.OutputFile(path=path, digest=await target.put(content)) for path, content in data.items()]
    await update_result(target, action, a_result(output_files=files))
    result = await get_result(target, action, inline_output_files=["a.txt", "nope"])
    assert {file.path: file.contents for file in result.output_files} == {"a.txt": data["a.txt"], "b.txt": b""}
    assert [file.digest for file in result.output_files] == [digest_of(content) for content in data.values()]


async def test_acg_09_what_is_inside_is_what_the_digests_say(target: Target) -> None:
    action, stored = an_action(), outputs()
    await target.update(stored.blobs.values())
    await update_result(target, action, stored.result)
    result = await get_result(target, action, inline_stdout=True, inline_stderr=True, inline_output_files=["file"])
    if not (result.stdout_raw or result.stderr_raw or result.output_files[0].contents):
        pytest.skip("not testable here: nothing comes inside")
    for data, digest in (
        (result.stdout_raw, result.stdout_digest),
        (result.stderr_raw, result.stderr_digest),
        (result.output_files[0].contents, result.output_files[0].digest),
    ):
        assert not data or digest_of(data) == digest


async def test_acg_10_an_empty_file_has_no_contents_and_its_digest(target: Target) -> None:
    action = an_action()
    file = pb.OutputFile(path="empty", digest=digest_of(b""))
    await update_result(target, action, a_result(output_files=[file]))
    result = await get_result(target, action, inline_output_files=["empty"])
    assert [(one.contents, one.digest) for one in result.output_files] == [(b"", digest_of(b""))]


async def test_acg_11_another_size_is_another_key(target: Target) -> None:
    action = an_action()
    await update_result(target, action, a_result())
    with refused(NOT_FOUND, INVALID_ARGUMENT):
        await get_result(target, pb.Digest(hash=action.hash, size_bytes=action.size_bytes + 1))


async def test_acg_11_another_function_is_another_key(target: Target) -> None:
    if pb.DigestFunction.BLAKE3 not in target.capabilities.cache_capabilities.digest_functions:
        pytest.skip("not testable here: there is no other function with hashes of this length")
    action = an_action()
    await update_result(target, action, a_result())
    with refused(NOT_FOUND):
        await get_result(target, action, digest_function=pb.DigestFunction.BLAKE3)


async def test_acg_12_every_result_has_metadata(target: Target) -> None:
    action = an_action()
    await update_result(target, action, pb.ActionResult(output_symlinks=[pb.OutputSymlink(path="a", target="b")]))
    assert (await get_result(target, action)).HasField("execution_metadata")


async def test_acg_13_no_result_is_empty_bytes(target: Target) -> None:
    action = an_action()
    await update_result(target, action, pb.ActionResult())
    assert (await get_result(target, action)).SerializeToString()


async def test_acg_14_results_in_use_outlive_those_that_are_not(small: Target) -> None:
    used, unused = an_action(), an_action()
    for action in (used, unused):
        await update_result(small, action, a_result())
    for _ in range(RESULTS_IN_MEMORY):
        await update_result(small, an_action(), a_result())
        await get_result(small, used)
    with refused(NOT_FOUND):
        await get_result(small, unused)


async def test_acg_15_the_action_itself_need_not_be_there(target: Target) -> None:
    action = an_action()
    assert await target.find_missing([action]) == [action]
    await update_result(target, action, a_result())
    await get_result(target, action)
