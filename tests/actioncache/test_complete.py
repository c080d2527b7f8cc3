"""A result is found only while all that it names is there (checklist ACG-04, ACG-05)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Set

import pytest

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import write_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobCorrupted, BlobNotFound, GridwrightError, Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_actioncache.results import hierarchies
from gridwright_actioncache.results.complete import CompletenessCheckingStore, CompletenessStatistics
from gridwright_actioncache.results.store import ResultStore
from gridwright_actioncache.results.verdict import Outcome
from tests.actioncache.contract import DecoratorContract, DocumentsContract, ReplacingContract, an_action
from tests.actioncache.documents import a_blob, directory, message, tree
from tests.actioncache.result_stores import a_memory

SHA256 = DigestFunction.SHA256


class Cas(MemoryStore):
    """A CAS that can lose blobs, and counts what it is asked."""

    def __init__(self) -> None:
        super().__init__(max_bytes=10**8)
        self.lost: set[Digest] = set()
        self.reads: list[Digest] = []
        self.questions = 0
        self.error: GridwrightError | None = None

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        self.questions += 1
        if self.error is not None:
            raise self.error
        return (await super().missing(digests)) | (digests & self.lost)

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        self.reads += digests
        if self.error is not None:
            return dict.fromkeys(digests, self.error)
        return await super().get_many(digests)

    async def keep(self, data: bytes, function: DigestFunction = SHA256) -> Digest:
        digest = function.digest(data)
        await write_blob(self, digest, data)
        return digest


@pytest.fixture
def cas() -> Cas:
    return Cas()


@pytest.fixture
def store(cas: Cas) -> CompletenessCheckingStore:
    return CompletenessCheckingStore(a_memory(), {"main": cas})


class TestCompletenessCheckingStore(ReplacingContract, DocumentsContract, DecoratorContract):
    def decorated(self, inner: ResultStore) -> ResultStore:
        return CompletenessCheckingStore(inner, {"main": Cas()})

    @pytest.fixture
    def store(self) -> ResultStore:
        cas = Cas()
        inner = a_memory()
        return CompletenessCheckingStore(inner, {"main": cas, "a/b": cas, "": cas})


async def found(store: ResultStore, result: pb.ActionResult, action: Digest | None = None) -> bool:
    action = action or an_action()
    await store.put("main", action, result.SerializeToString())
    return action in await store.get_many("main", [action])


async def test_a_result_without_outputs_needs_nobodys_word(store: CompletenessCheckingStore, cas: Cas) -> None:
    assert await found(store, pb.ActionResult(exit_code=0))
    assert cas.questions == 0


@pytest.mark.parametrize("function", list(DigestFunction))
async def test_a_result_names_blobs_of_its_actions_digest_function(
    store: CompletenessCheckingStore, cas: Cas, function: DigestFunction
) -> None:
    kept = await cas.keep(b"output", function)
    result = pb.ActionResult(output_files=[pb.OutputFile(path="a", digest=message(kept))])
    assert await found(store, result, an_action(function))


async def test_each_blob_that_a_result_names_must_be_there(store: CompletenessCheckingStore, cas: Cas) -> None:
    files = [await cas.keep(data) for data in (b"one", b"two")]
    streams = [await cas.keep(data) for data in (b"out", b"err")]
    in_root, in_child = await cas.keep(b"in the root"), await cas.keep(b"in a child")
    below = directory(files={"deep": in_child})
    top = directory(files={"flat": in_root}, directories={"below": below})
    a_tree = await cas.keep(tree(top, below))
    result = pb.ActionResult(
        output_files=[pb.OutputFile(path=str(digest), digest=message(digest)) for digest in files],
        stdout_digest=message(streams[0]),
        stderr_digest=message(streams[1]),
        output_directories=[pb.OutputDirectory(path="dir", tree_digest=message(a_tree))],
    )
    action = an_action()
    assert await found(store, result, action)
    for digest in (*files, *streams, in_root, in_child, a_tree):
        cas.lost = {digest}
        assert not await store.get_many("main", [action]), digest
    cas.lost = set()
    assert await store.get_many("main", [action])
    assert store.statistics.complete == 2
    assert store.statistics.incomplete == 7


async def test_a_tree_alone_needs_no_directory_blobs(store: CompletenessCheckingStore, cas: Cas) -> None:
    below = directory(files={})
    a_tree = await cas.keep(tree(directory(directories={"below": below}), below))
    result = pb.ActionResult(output_directories=[pb.OutputDirectory(path="d", tree_digest=message(a_tree))])
    assert await found(store, result)


async def test_a_tree_with_a_root_directory_needs_the_directories_too(
    store: CompletenessCheckingStore, cas: Cas
) -> None:
    file = await cas.keep(b"file")
    below = directory(files={"f": file})
    top = directory(directories={"below": below})
    output = pb.OutputDirectory(
        path="d",
        tree_digest=message(await cas.keep(tree(top, below))),
        root_directory_digest=message(SHA256.digest(top.SerializeToString())),
    )
    result = pb.ActionResult(output_directories=[output])
    assert not await found(store, result)
    await cas.keep(top.SerializeToString())
    assert not await found(store, result)
    await cas.keep(below.SerializeToString())
    assert await found(store, result)


async def test_a_tree_and_a_root_directory_that_do_not_belong_together_are_both_checked(
    store: CompletenessCheckingStore, cas: Cas
) -> None:
    file = await cas.keep(b"file")
    top = directory(files={"f": file})
    output = pb.OutputDirectory(
        path="d",
        tree_digest=message(await cas.keep(tree(pb.Directory()))),
        root_directory_digest=message(await cas.keep(top.SerializeToString())),
    )
    result = pb.ActionResult(output_directories=[output])
    assert await found(store, result)
    cas.lost = {file}
    assert not await found(store, result)


async def test_what_a_tree_holds_is_not_told_of_to_those_whose_cas_lacks_it() -> None:
    ours, theirs = Cas(), Cas()
    store = CompletenessCheckingStore(a_memory(), {"main": ours, "theirs": theirs})
    a_tree = await ours.keep(tree(directory(files={"f": await ours.keep(b"file")})))
    output = pb.OutputDirectory(path="d", tree_digest=message(a_tree))
    result, action = pb.ActionResult(output_directories=[output]), an_action()
    assert await found(store, result)
    await store.put("theirs", action, result.SerializeToString())
    assert (await store.explain("theirs", action)).missing == {a_tree}


async def test_a_root_directory_alone_is_walked(store: CompletenessCheckingStore, cas: Cas) -> None:
    file = await cas.keep(b"file")
    deepest = directory(files={"f": file})
    middle = directory(directories={"deepest": deepest, "empty": pb.Directory()})
    top = directory(directories={"one": middle, "other": middle})
    digests = [await cas.keep(one.SerializeToString()) for one in (top, middle, deepest)]
    output = pb.OutputDirectory(path="d", root_directory_digest=message(digests[0]))
    result = pb.ActionResult(output_directories=[output])
    action = an_action()
    for lost in (file, *digests):
        cas.lost = {lost}
        assert not await found(store, result, action), lost
    cas.lost = set()
    assert await store.get_many("main", [action])
    absent = pb.OutputDirectory(path="d", root_directory_digest=message(a_blob()))
    assert not await found(store, pb.ActionResult(output_directories=[absent]))


async def test_a_tree_is_read_once_and_asked_for_every_time(store: CompletenessCheckingStore, cas: Cas) -> None:
    a_tree = await cas.keep(tree(directory(files={"f": await cas.keep(b"file")})))
    result = pb.ActionResult(output_directories=[pb.OutputDirectory(path="d", tree_digest=message(a_tree))])
    for _ in range(5):
        assert await found(store, result)
    assert cas.reads == [a_tree]
    cas.lost = {a_tree}
    assert not await found(store, result)


async def test_a_tree_that_many_ask_for_at_once_is_read_once(store: CompletenessCheckingStore, cas: Cas) -> None:
    a_tree = await cas.keep(tree(directory(files={"f": await cas.keep(b"file")})))
    result = pb.ActionResult(output_directories=[pb.OutputDirectory(path="d", tree_digest=message(a_tree))])
    actions = [an_action() for _ in range(50)]
    for action in actions:
        await store.put("main", action, result.SerializeToString())
    hits = await asyncio.gather(*(store.get_many("main", [action]) for action in actions))
    assert all(hits)
    assert cas.reads == [a_tree]


async def test_one_that_leaves_takes_the_tree_from_nobody(cas: Cas) -> None:
    reading = hierarchies.Hierarchies()
    a_tree = await cas.keep(tree(directory(files={"f": await cas.keep(b"file")})))
    first = asyncio.create_task(reading.inside_tree(a_tree, cas))
    second = asyncio.create_task(reading.inside_tree(a_tree, cas))
    await asyncio.sleep(0)
    first.cancel()
    assert len(await second) == 1
    assert cas.reads == [a_tree]
    absent = [asyncio.create_task(reading.inside_tree(a_blob(), cas)) for _ in range(2)]
    assert [type(error) for error in await asyncio.gather(*absent, return_exceptions=True)] == [BlobNotFound] * 2
    await reading.aclose()


async def test_explaining_tells_what_is_missing_and_counts_nothing(store: CompletenessCheckingStore, cas: Cas) -> None:
    kept, lost = await cas.keep(b"output"), a_blob()
    action = an_action()
    files = [pb.OutputFile(path=str(digest), digest=message(digest)) for digest in (kept, lost)]
    await store.put("main", action, pb.ActionResult(output_files=files).SerializeToString())
    verdict = await store.explain("main", action)
    assert (verdict.outcome, verdict.missing) == (Outcome.INCOMPLETE, frozenset({lost}))
    cas.error = Unavailable("down")
    with pytest.raises(Unavailable):
        await store.explain("main", action)
    assert store.statistics == CompletenessStatistics()


async def test_what_is_remembered_of_trees_is_bounded(cas: Cas) -> None:
    remembering = hierarchies.Hierarchies(max_bytes=25 * 250)
    trees = []
    for number in range(5):
        files = {str(k): SHA256.digest(f"{number} {k}".encode()) for k in range(9)}
        trees.append(await cas.keep(tree(directory(files=files))))
        inside = await remembering.inside_tree(trees[-1], cas)
        assert inside == set(files.values())
    huge = await cas.keep(tree(directory(files={str(k): SHA256.digest(f"huge {k}".encode()) for k in range(40)})))
    await remembering.inside_tree(huge, cas)
    cas.reads.clear()
    for one in (*trees[-2:], trees[0], huge):
        await remembering.inside_tree(one, cas)
    assert cas.reads == [trees[0], huge]


async def test_a_large_tree_is_checked_to_its_last_file(store: CompletenessCheckingStore, cas: Cas) -> None:
    files = {f"file-{k}": await cas.keep(f"content {k}".encode()) for k in range(20_000)}
    a_tree = await cas.keep(tree(directory(files=files)))
    assert a_tree.size_bytes > hierarchies._DECODED_INLINE_BYTES
    result = pb.ActionResult(output_directories=[pb.OutputDirectory(path="d", tree_digest=message(a_tree))])
    assert await found(store, result)
    cas.lost = {files["file-19999"]}
    assert not await found(store, result)


async def test_a_tree_too_large_to_be_checked_is_no_hit(store: CompletenessCheckingStore) -> None:
    huge = a_blob()._replace(size_bytes=10**9)
    result = pb.ActionResult(output_directories=[pb.OutputDirectory(path="d", tree_digest=message(huge))])
    assert not await found(store, result)


@pytest.mark.parametrize(
    "stored",
    [
        b"\xff\xff\xff",
        pb.ActionResult(output_files=[pb.OutputFile(path="a", digest=pb.Digest(hash="xyz", size_bytes=3))]),
        pb.ActionResult(output_files=[pb.OutputFile(path="a")]),
        pb.ActionResult(stdout_digest=pb.Digest(hash="A" * 64, size_bytes=3)),
        pb.ActionResult(stdout_digest=pb.Digest(hash="a" * 64, size_bytes=-3)),
        pb.ActionResult(output_directories=[pb.OutputDirectory(path="a")]),
    ],
    ids=["noise", "short hash", "no digest", "capitals", "negative size", "directory without digest"],
)
async def test_a_malformed_stored_result_is_a_miss_and_counted(
    store: CompletenessCheckingStore, stored: bytes | pb.ActionResult
) -> None:
    action = an_action()
    await store.put("main", action, stored if isinstance(stored, bytes) else stored.SerializeToString())
    assert await store.get_many("main", [action]) == {}
    assert store.statistics.malformed == 1


async def test_a_tree_that_is_none_is_a_miss(store: CompletenessCheckingStore, cas: Cas) -> None:
    noise = await cas.keep(b"\xff\xff\xff")
    for output in (
        pb.OutputDirectory(path="d", tree_digest=message(noise)),
        pb.OutputDirectory(path="d", root_directory_digest=message(noise)),
    ):
        assert not await found(store, pb.ActionResult(output_directories=[output]))
    assert store.statistics.malformed == 2


async def test_contents_in_the_result_do_not_stand_for_the_blob(store: CompletenessCheckingStore) -> None:
    file = pb.OutputFile(path="a", digest=message(SHA256.digest(b"x")), contents=b"x")
    assert not await found(store, pb.ActionResult(output_files=[file]))


async def test_the_empty_blob_is_always_there(store: CompletenessCheckingStore, cas: Cas) -> None:
    result = pb.ActionResult(
        output_files=[pb.OutputFile(path="a", digest=message(SHA256.empty))], stdout_digest=pb.Digest()
    )
    assert await found(store, result)
    assert cas.questions == 0


@pytest.mark.parametrize("error", [Unavailable("gone"), BlobCorrupted(a_blob())])
async def test_a_cas_that_cannot_answer_is_unavailable(
    store: CompletenessCheckingStore, cas: Cas, error: GridwrightError
) -> None:
    a_tree = await cas.keep(tree(directory()))
    results = [
        pb.ActionResult(output_files=[pb.OutputFile(path="a", digest=message(a_blob()))]),
        pb.ActionResult(output_directories=[pb.OutputDirectory(path="d", tree_digest=message(a_tree))]),
    ]
    cas.error = error
    for result in results:
        with pytest.raises(Unavailable):
            await found(store, result)


async def test_several_results_take_one_question(store: CompletenessCheckingStore, cas: Cas) -> None:
    actions = [an_action() for _ in range(10)]
    for number, action in enumerate(actions):
        digest = await cas.keep(str(number).encode())
        result = pb.ActionResult(output_files=[pb.OutputFile(path="a", digest=message(digest))])
        await store.put("main", action, result.SerializeToString())
    cas.lost = {SHA256.digest(b"3")}
    assert set(await store.get_many("main", actions)) == set(actions) - {actions[3]}
    assert cas.questions == 1
