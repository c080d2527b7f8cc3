"""Directory trees of any shape, some of it missing, some of it no Directory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_rpc as rpc
from tests.conformance.blobs import digest_of
from tests.fuzz.cas_under_fire import INVALID, NOT_FOUND, OK, CasUnderFire
from tests.fuzz.effort import effort


class Node(NamedTuple):
    """A Directory to be: its children are among those that come after it, by how far."""

    children: Sequence[int]
    files: int
    missing: bool


nodes = st.builds(
    Node, st.lists(st.integers(1, 6), max_size=6), st.integers(0, 3), st.sampled_from([False, False, False, True])
)
#: Shapes with few paths, and with more than there are atoms.
graphs = st.one_of(
    st.lists(nodes, min_size=1, max_size=25),
    st.integers(2, 60).map(lambda depth: [Node([1, 1, 2], 0, False)] * depth),
    st.integers(2, 300).map(lambda depth: [Node([1], 0, False)] * depth),
)
page_sizes = st.sampled_from([0, 0, 1, 2, 7, 10_000, 2**31 - 1])


class Tree(NamedTuple):
    """What a graph has become."""

    root: pb.Digest
    #: Of the directories that can be reached, breadth first, each once.
    reachable: Sequence[str]
    kept: Sequence[bytes]


def build(graph: Sequence[Node], mark: bytes) -> Tree:
    """Return the tree whose root is the first of *graph*; *mark* makes its leaves unlike any others."""
    blobs: list[bytes] = [b""] * len(graph)
    for index in reversed(range(len(graph))):
        directory = pb.Directory()
        for number in range(graph[index].files):
            directory.files.add(name=f"f{number}", digest=digest_of(mark))
        if not graph[index].children:
            directory.symlinks.add(name=f"s{index}", target=mark.decode())
        for number, step in enumerate(graph[index].children):
            if index + step < len(graph):
                directory.directories.add(name=f"d{number}", digest=digest_of(blobs[index + step]))
        directory.files.add(name=f"x{mark.decode().replace('/', '-')}", digest=digest_of(mark))
        blobs[index] = directory.SerializeToString(deterministic=True)
    kept = {digest_of(blob).hash: blob for blob, node in zip(blobs, graph, strict=True) if not node.missing}
    kept[digest_of(blobs[0]).hash] = blobs[0]
    level, reachable = [digest_of(blobs[0]).hash], list[str]()
    while level:
        reachable += level
        below = [node.digest.hash for hash_ in level for node in pb.Directory.FromString(kept[hash_]).directories]
        level = [hash_ for hash_ in dict.fromkeys(below) if hash_ in kept and hash_ not in reachable]
    return Tree(digest_of(blobs[0]), reachable, list(kept.values()))


def request(tree: pb.Digest, size: int = 0, token: str = "") -> pb.GetTreeRequest:
    return pb.GetTreeRequest(instance_name="main", root_digest=tree, page_size=size, page_token=token)


def hashes(pages: Sequence[pb.GetTreeResponse]) -> list[str]:
    return [digest_of(one.SerializeToString(deterministic=True)).hash for page in pages for one in page.directories]


@effort()
@given(graph=graphs, page_size=page_sizes)
def test_each_directory_that_is_there_comes_once_in_pages_that_can_be_taken_up(
    cas: CasUnderFire, graph: Sequence[Node], page_size: int
) -> None:
    tree = build(graph, cas.fresh(b""))
    cas.put(*tree.kept)
    answer = cas.call(rpc.GET_TREE, [request(tree.root, page_size)])
    assert answer.code is OK
    assert sorted(hashes(answer.messages)) == sorted(tree.reachable)
    assert all(len(page.directories) <= page_size or not page_size for page in answer.messages)
    middle = len(answer.messages) // 2
    if token := answer.messages[middle].next_page_token:
        rest = cas.call(rpc.GET_TREE, [request(tree.root, page_size, token)])
        assert hashes(rest.messages) == hashes(answer.messages[middle + 1 :])


@effort()
@given(
    token=st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
        st.integers(-10, 10).map(str),
        st.sampled_from(["9" * 9, "9" * 30, "1.0", "+1", "٣", " 1", "0x1", "1\0"]),
    ),
    page_size=st.one_of(page_sizes, st.sampled_from([-1, -(2**31)])),
)
def test_a_page_token_that_none_gave_is_refused_or_begins_within_the_tree(
    cas: CasUnderFire, token: str, page_size: int
) -> None:
    tree = build([Node([1], 1, False)] * 3, b"always the same")
    cas.put(*tree.kept)
    answer = cas.call(rpc.GET_TREE, [request(tree.root, page_size, token)])
    assert answer.code in (OK, INVALID)
    if answer.code is OK:
        assert set(hashes(answer.messages)) <= set(tree.reachable)
    if page_size < 0:
        assert answer.code is INVALID


@effort()
@given(garbage=st.binary(max_size=200), below=st.booleans())
def test_a_blob_that_is_no_directory_is_refused_or_read_as_the_one_that_it_is(
    cas: CasUnderFire, garbage: bytes, below: bool
) -> None:
    cas.put(garbage)
    root = digest_of(garbage)
    if below:
        directory = pb.Directory(directories=[pb.DirectoryNode(name="d", digest=root)])
        cas.put(directory.SerializeToString())
        root = digest_of(directory.SerializeToString())
    answer = cas.call(rpc.GET_TREE, [request(root)])
    assert answer.code in (OK, INVALID)


@effort(share=0.5)
@given(
    digest=st.builds(
        lambda hash_, size: pb.Digest(hash=hash_, size_bytes=size), st.text(max_size=64), st.integers(-5, 5)
    )
)
def test_a_child_whose_digest_is_none_is_refused(cas: CasUnderFire, digest: pb.Digest) -> None:
    directory = pb.Directory(directories=[pb.DirectoryNode(name="d", digest=digest)]).SerializeToString()
    cas.put(directory)
    assert cas.call(rpc.GET_TREE, [request(digest_of(directory))]).code is INVALID
    missing = digest_of(cas.fresh(b""))
    assert cas.call(rpc.GET_TREE, [request(missing)]).code is NOT_FOUND
