"""To lose any one blob turns exactly those hits into misses that name it, in whatever way (checklist ACG-05)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gridwright.blobs.memory import MemoryStore
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobNotFound, GridwrightError
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_actioncache.results.complete import CompletenessCheckingStore
from tests.actioncache.documents import directory, message
from tests.actioncache.result_stores import a_memory

SHA256 = DigestFunction.SHA256


class LosingCas(MemoryStore):
    """A CAS that lacks one blob, however it is asked."""

    def __init__(self) -> None:
        super().__init__(max_bytes=10**8)
        self.lost: Digest | None = None

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        return (await super().missing(digests)) | (digests & {self.lost})

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        found = dict(await super().get_many(digests))
        if self.lost is not None and self.lost in found:
            found[self.lost] = BlobNotFound(self.lost)
        return found


@dataclass(frozen=True)
class Folder:
    """A directory: its files, by the numbers of their contents, and what is below."""

    files: Sequence[int] = ()
    below: Sequence[Folder] = ()


@dataclass(frozen=True)
class Outputs:
    """What a result names, by the numbers of contents; None: there is none."""

    files: Sequence[int] = ()
    stdout: int | None = None
    stderr: int | None = None
    #: Told of as a Tree, as a root directory, and as both.
    trees: Sequence[Folder] = ()
    roots: Sequence[Folder] = ()
    both: Sequence[Folder] = ()


@dataclass
class Built:
    """A result, and all blobs that have to be there for it."""

    result: pb.ActionResult = field(default_factory=pb.ActionResult)
    blobs: dict[Digest, bytes] = field(default_factory=dict)

    def add(self, data: bytes) -> pb.Digest:
        digest = SHA256.digest(data)
        # Every CAS has the empty blob, and so the empty directory, always.
        if data:
            self.blobs[digest] = data
        return message(digest)


def contents(number: int) -> bytes:
    return b"x" * number


def built(outputs: Outputs) -> Built:
    one = Built()
    for path, number in enumerate(outputs.files):
        one.result.output_files.add(path=f"file{path}", digest=one.add(contents(number)))
    if outputs.stdout is not None:
        one.result.stdout_digest.CopyFrom(one.add(contents(outputs.stdout)))
    if outputs.stderr is not None:
        one.result.stderr_digest.CopyFrom(one.add(contents(outputs.stderr)))
    for folder in outputs.trees:
        _add_tree(one, folder)
    for folder in outputs.roots:
        one.result.output_directories.add(path="root", root_directory_digest=_add_root(one, folder))
    for folder in outputs.both:
        _add_tree(one, folder).root_directory_digest.CopyFrom(_add_root(one, folder))
    return one


def _add_tree(one: Built, folder: Folder) -> pb.OutputDirectory:
    root, *children = _directories(one, folder)
    encoded = pb.Tree(root=root, children=children).SerializeToString()
    return one.result.output_directories.add(path="tree", tree_digest=one.add(encoded))


def _add_root(one: Built, folder: Folder) -> pb.Digest:
    root, *children = (each.SerializeToString() for each in _directories(one, folder))
    for child in children:
        one.add(child)
    return one.add(root)


def _directories(one: Built, folder: Folder) -> list[pb.Directory]:
    """Return the directory and all below it; their files are added."""
    below = [_directories(one, each) for each in folder.below]
    files = {f"file{place}": SHA256.digest(contents(number)) for place, number in enumerate(folder.files)}
    for number in folder.files:
        one.add(contents(number))
    top = directory(files, {f"folder{place}": each[0] for place, each in enumerate(below)})
    return [top, *(each for inside in below for each in inside)]


# Few contents, so that results share blobs; 0 is the empty one.
NUMBERS = st.integers(0, 6)
FILES = st.lists(NUMBERS, max_size=3)
FOLDERS = st.recursive(
    st.builds(Folder, files=FILES),
    lambda below: st.builds(Folder, files=FILES, below=st.lists(below, max_size=2)),
    max_leaves=4,
)
SOME_FOLDERS = st.lists(FOLDERS, max_size=2)
OUTPUTS = st.builds(
    Outputs,
    files=FILES,
    stdout=st.none() | NUMBERS,
    stderr=st.none() | NUMBERS,
    trees=SOME_FOLDERS,
    roots=SOME_FOLDERS,
    both=SOME_FOLDERS,
)
DEEP = Folder([1], [Folder([2], [Folder([3]), Folder()])])


@settings(max_examples=60, deadline=None)
@given(st.lists(OUTPUTS, min_size=1, max_size=4))
@example([Outputs(files=[1]), Outputs(stdout=1), Outputs(stderr=1), Outputs(files=[2])])
@example([Outputs(trees=[DEEP]), Outputs(roots=[DEEP]), Outputs(both=[DEEP]), Outputs(files=[3])])
@example([Outputs(trees=[Folder()], roots=[Folder()], both=[Folder()], files=[0], stdout=0)])
async def test_to_lose_a_blob_loses_exactly_the_hits_that_name_it(all_outputs: list[Outputs]) -> None:
    cas, inner = LosingCas(), a_memory()
    results = {SHA256.digest(b"action %d" % number): built(one) for number, one in enumerate(all_outputs)}
    blobs = {digest: data for one in results.values() for digest, data in one.blobs.items()}
    await cas.put_many(blobs)
    for action, one in results.items():
        await inner.put("main", action, one.result.SerializeToString())
    remembering = CompletenessCheckingStore(inner, {"main": cas})
    assert set(await remembering.get_many("main", results)) == set(results)
    for lost in blobs:
        hits = {action for action, one in results.items() if lost not in one.blobs}
        forgetful = CompletenessCheckingStore(inner, {"main": cas})
        for store in (remembering, forgetful):
            cas.lost = lost
            assert set(await store.get_many("main", results)) == hits
            cas.lost = None
            assert set(await store.get_many("main", results)) == set(results)
        await forgetful.aclose()
    await remembering.aclose()
