"""Contents inside results: brought in on request, moved to the CAS when they come (ACG-06 to ACG-10, ACU-06)."""

from __future__ import annotations

import pytest

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import BlobStore, write_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import InvalidRequest, ResourceExhausted, Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.testing.broken_store import BrokenStore
from gridwright.testing.counting_store import CountingStore
from gridwright_actioncache.results.inlining import Wanted, bring_inside
from gridwright_actioncache.results.outlining import move_outside
from tests.actioncache.documents import a_blob, message

SHA256 = DigestFunction.SHA256
LIMIT = 10_000
EVERYTHING = Wanted(stdout=True, stderr=True, files=("a", "b", "nope"))


@pytest.fixture
def cas() -> MemoryStore:
    return MemoryStore(max_bytes=10**8)


async def keep(cas: BlobStore, data: bytes, function: DigestFunction = SHA256) -> Digest:
    digest = function.digest(data)
    await write_blob(cas, digest, data)
    return digest


async def a_result(cas: BlobStore, stdout: bytes = b"out", stderr: bytes = b"err", **files: bytes) -> pb.ActionResult:
    return pb.ActionResult(
        stdout_digest=message(await keep(cas, stdout)),
        stderr_digest=message(await keep(cas, stderr)),
        output_files=[pb.OutputFile(path=path, digest=message(await keep(cas, data))) for path, data in files.items()],
    )


async def brought(
    result: pb.ActionResult, wanted: Wanted, cas: BlobStore, limit: int = LIMIT, function: DigestFunction = SHA256
) -> pb.ActionResult:
    answer = pb.ActionResult()
    answer.CopyFrom(result)
    await bring_inside(answer, wanted, cas, function, max_bytes=limit)
    return answer


async def test_nothing_comes_inside_that_nobody_asked_for(cas: MemoryStore) -> None:
    result = await a_result(cas, a=b"A")
    assert await brought(result, Wanted(), cas) == result


async def test_what_was_asked_for_comes_beside_its_digest(cas: MemoryStore) -> None:
    answer = await brought(await a_result(cas, a=b"A", c=b"C"), EVERYTHING, cas)
    assert (answer.stdout_raw, answer.stderr_raw) == (b"out", b"err")
    assert answer.stdout_digest.hash == SHA256.digest(b"out").hash
    assert [(file.path, file.contents) for file in answer.output_files] == [("a", b"A"), ("c", b"")]
    assert answer.output_files[0].digest.hash == SHA256.digest(b"A").hash


@pytest.mark.parametrize("function", list(DigestFunction))
async def test_contents_have_the_digest_function_of_the_action(cas: MemoryStore, function: DigestFunction) -> None:
    result = pb.ActionResult(stdout_digest=message(await keep(cas, b"out", function)))
    assert (await brought(result, EVERYTHING, cas, function=function)).stdout_raw == b"out"


async def test_one_question_asks_the_cas_for_all_of_it(cas: MemoryStore) -> None:
    counting = CountingStore(cas)
    await brought(await a_result(cas, a=b"A", b=b"B"), EVERYTHING, counting)
    assert counting.calls["get_many"] == 1


async def test_empty_contents_ask_nobody(cas: MemoryStore) -> None:
    counting = CountingStore(cas)
    answer = await brought(await a_result(cas, stdout=b"", stderr=b"", a=b""), EVERYTHING, counting)
    assert answer.output_files[0].contents == b""
    assert answer.output_files[0].digest.size_bytes == 0
    assert not counting.calls


@pytest.mark.parametrize("size_bytes", [LIMIT - 300, LIMIT - 100, LIMIT - 30, LIMIT, LIMIT + 1, 10 * LIMIT])
async def test_the_reply_never_exceeds_the_limit(cas: MemoryStore, size_bytes: int) -> None:
    answer = await brought(await a_result(cas, stdout=bytes(size_bytes), a=b"A"), EVERYTHING, cas)
    assert answer.ByteSize() <= LIMIT
    assert answer.stdout_digest.size_bytes == size_bytes
    assert answer.stderr_raw == b"err"
    assert bool(answer.stdout_raw) == (size_bytes == LIMIT - 300)


async def test_what_is_gone_or_cannot_be_read_is_left_to_the_client(cas: MemoryStore) -> None:
    result = await a_result(cas, a=b"A")
    result.stdout_digest.CopyFrom(message(a_blob()))
    answer = await brought(result, EVERYTHING, cas)
    assert (answer.stdout_raw, answer.stderr_raw) == (b"", b"err")
    assert await brought(result, EVERYTHING, BrokenStore(Unavailable("down"))) == result


async def test_contents_that_were_stored_inside_leave_it_unless_they_are_wanted(cas: MemoryStore) -> None:
    stored = await a_result(cas, a=b"A")
    stored.stdout_raw, stored.stderr_raw = b"out", b"err"
    stored.output_files[0].contents = b"A"
    answer = await brought(stored, Wanted(stdout=True), cas)
    assert (answer.stdout_raw, answer.stderr_raw, answer.output_files[0].contents) == (b"out", b"", b"")
    without_digest = pb.ActionResult(stdout_raw=b"only here")
    assert await brought(without_digest, Wanted(), cas) == without_digest


async def test_contents_that_were_stored_inside_and_are_too_large_leave_it_although_wanted(cas: MemoryStore) -> None:
    stored = await a_result(cas, stdout=bytes(2 * LIMIT))
    stored.stdout_raw = bytes(2 * LIMIT)
    answer = await brought(stored, EVERYTHING, cas)
    assert answer.ByteSize() <= LIMIT
    assert answer.stderr_raw == b"err"


async def test_contents_that_come_inside_go_to_the_cas(cas: MemoryStore) -> None:
    result = pb.ActionResult(stdout_raw=b"out", stderr_raw=b"err")
    result.output_files.add(path="a", digest=message(SHA256.digest(b"A")), contents=b"A")
    result.output_files.add(path="b", digest=message(SHA256.digest(b"B")))
    await move_outside(result, cas, SHA256)
    assert (result.stdout_raw, result.stderr_raw, result.output_files[0].contents) == (b"", b"", b"")
    assert result.stdout_digest == message(SHA256.digest(b"out"))
    assert not await cas.missing({SHA256.digest(data) for data in (b"out", b"err", b"A")})
    assert await cas.missing({SHA256.digest(b"B")})


async def test_a_result_without_contents_asks_nobody() -> None:
    result = pb.ActionResult(stdout_digest=message(a_blob()))
    await move_outside(result, BrokenStore(Unavailable("down")), SHA256)


@pytest.mark.parametrize(
    "wrong",
    [
        pb.ActionResult(stdout_raw=b"out", stdout_digest=message(a_blob())),
        pb.ActionResult(stderr_raw=b"err", stderr_digest=message(a_blob())),
        pb.ActionResult(output_files=[pb.OutputFile(path="a", contents=b"A", digest=message(a_blob()))]),
    ],
)
async def test_contents_that_are_not_what_their_digest_says_are_refused(
    cas: MemoryStore, wrong: pb.ActionResult
) -> None:
    with pytest.raises(InvalidRequest, match="these are the contents of"):
        await move_outside(wrong, cas, SHA256)


async def test_a_cas_that_has_no_room_for_contents_refuses_the_result() -> None:
    with pytest.raises(ResourceExhausted):
        await move_outside(pb.ActionResult(stdout_raw=bytes(100)), MemoryStore(max_bytes=10), SHA256)
