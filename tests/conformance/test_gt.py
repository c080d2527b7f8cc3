"""ContentAddressableStorage.GetTree (checklist GT)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import grpc
import pytest

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.target import Target, digest_of, fresh, refused

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
RECEIVE_BYTES = 4 * 1024 * 1024


class Trees:
    """Makes directories that nobody has uploaded, from the leaves up, and uploads them many at a time."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._new: list[bytes] = []
        self._salt = fresh(8).hex()
        self._count = 0

    def add(self, *children: pb.Digest, entries: int = 0, size: int = 0, upload: bool = True) -> pb.Digest:
        """Make a Directory with *children*, as many links, and one link of *size*; return its digest."""
        self._count += 1
        directory = pb.Directory(
            directories=[pb.DirectoryNode(name=f"d{index:06}", digest=child) for index, child in enumerate(children)],
            symlinks=[pb.SymlinkNode(name=f"l{index:06}", target="x") for index in range(entries)],
        )
        directory.symlinks.add(name="name", target=f"{self._salt}/{self._count}".ljust(size, "."))
        data = directory.SerializeToString(deterministic=True)
        if upload:
            self._new.append(data)
        return digest_of(data)

    async def upload(self) -> None:
        """Upload what was made."""
        new, self._new = self._new, []
        batch: list[bytes] = []
        for data in [*new, None]:
            if batch and (data is None or len(batch) == 2000 or sum(map(len, batch)) + len(data) > 1_000_000):
                answer = await self._target.update(batch)
                assert {one.status.code for one in answer.responses} == {0}
                batch = []
            if data is not None:
                batch.append(data)


@pytest.fixture
def trees(target: Target) -> Trees:
    return Trees(target)


async def pages_of(
    target: Target, root: pb.Digest, page_size: int = 0, page_token: str = ""
) -> list[pb.GetTreeResponse]:
    request = pb.GetTreeRequest(
        instance_name=target.instance, root_digest=root, page_size=page_size, page_token=page_token
    )
    answers = target.streamed("ContentAddressableStorage/GetTree", request, pb.GetTreeResponse)
    return [page async for page in answers]


def hashes(pages: Iterable[pb.GetTreeResponse]) -> list[str]:
    """Return the hashes of all directories of *pages*, in their order."""
    found = [directory.SerializeToString(deterministic=True) for page in pages for directory in page.directories]
    return [digest_of(data).hash for data in found]


def of(digests: Sequence[pb.Digest]) -> set[str]:
    return {digest.hash for digest in digests}


async def five(trees: Trees) -> tuple[pb.Digest, list[pb.Digest]]:
    """Upload a tree of five directories on three levels; return its root, and all of them."""
    leaves = [trees.add(), trees.add()]
    middle = [trees.add(leaves[0]), trees.add(leaves[1])]
    root = trees.add(*middle)
    await trees.upload()
    return root, [*leaves, *middle, root]


async def test_gt_01_every_directory_comes_and_the_root(target: Target, trees: Trees) -> None:
    root, every = await five(trees)
    found = hashes(await pages_of(target, root))
    assert set(found) == of(every)
    assert found[0] == root.hash


async def test_gt_02_a_missing_root_is_not_found(target: Target) -> None:
    with refused(NOT_FOUND):
        await pages_of(target, digest_of(fresh()))


async def test_gt_03_missing_directories_are_left_out(target: Target, trees: Trees) -> None:
    there, missing = trees.add(), trees.add(trees.add(), upload=False)
    beside = trees.add(there)
    root = trees.add(missing, beside)
    await trees.upload()
    assert set(hashes(await pages_of(target, root))) == of([root, beside, there])


async def test_gt_04_page_size_bounds_the_directories_of_a_message(target: Target, trees: Trees) -> None:
    root, every = await five(trees)
    for page_size in (1, 2):
        pages = await pages_of(target, root, page_size)
        assert max(len(page.directories) for page in pages) <= page_size
        assert set(hashes(pages)) == of(every)


async def test_gt_05_a_token_continues_after_its_page(target: Target, trees: Trees) -> None:
    root, _ = await five(trees)
    pages = await pages_of(target, root, 1)
    assert [bool(page.next_page_token) for page in pages] == [True] * (len(pages) - 1) + [False]
    for index, page in enumerate(pages[:-1]):
        assert await pages_of(target, root, 1, page.next_page_token) == pages[index + 1 :]


async def test_gt_06_one_call_sends_all_pages(target: Target, trees: Trees) -> None:
    middle = [trees.add(*[trees.add() for _ in range(200)]) for _ in range(50)]
    root = trees.add(*middle)
    await trees.upload()
    assert len(set(hashes(await pages_of(target, root)))) == 10_051
    pages = await pages_of(target, root, 1_000)
    assert len(pages) == 11
    assert len(set(hashes(pages))) == 10_051


async def test_gt_07_each_message_is_below_4_mib(target: Target, trees: Trees) -> None:
    root = trees.add(*[trees.add(size=700_000) for _ in range(30)])
    await trees.upload()
    pages = await pages_of(target, root)
    assert sum(page.ByteSize() for page in pages) > 15_000_000
    assert max(page.ByteSize() for page in pages) < RECEIVE_BYTES
    assert len(hashes(pages)) == 31


@pytest.mark.parametrize("token", ["zzz", "-1", "1.5", "99999", "9" * 40, "\x00", "ü"])
async def test_gt_08_a_bad_token_is_invalid(target: Target, trees: Trees, token: str) -> None:
    root, _ = await five(trees)
    with refused(INVALID_ARGUMENT):
        await pages_of(target, root, page_token=token)


async def test_gt_08_a_negative_page_size_is_invalid(target: Target, trees: Trees) -> None:
    root, _ = await five(trees)
    with refused(INVALID_ARGUMENT):
        await pages_of(target, root, page_size=-1)


async def test_gt_09_a_root_that_is_no_directory_is_invalid(target: Target) -> None:
    digest = await target.put(b"\xff" * 9 + fresh(8))
    with refused(INVALID_ARGUMENT):
        await pages_of(target, digest)


async def test_gt_10_the_empty_directory_needs_no_upload(target: Target) -> None:
    (page,) = await pages_of(target, digest_of(b""))
    assert list(page.directories) == [pb.Directory()]


async def test_gt_11_a_diamond_of_forty_levels_is_not_a_trillion_directories(target: Target, trees: Trees) -> None:
    every = [trees.add()]
    for _ in range(40):
        every.append(trees.add(every[-1], every[-1]))
    await trees.upload()
    assert set(hashes(await pages_of(target, every[-1]))) == of(every)


async def test_gt_12_a_tree_of_a_thousand_levels_is_answered(target: Target, trees: Trees) -> None:
    every = [trees.add()]
    for _ in range(1000):
        every.append(trees.add(every[-1]))
    await trees.upload()
    assert set(hashes(await pages_of(target, every[-1]))) == of(every)


async def test_gt_12_a_directory_of_a_hundred_thousand_entries_is_answered(target: Target, trees: Trees) -> None:
    root = trees.add(trees.add(entries=100_000))
    await trees.upload()
    found = await asyncio.wait_for(pages_of(target, root), timeout=30)
    assert max(len(directory.symlinks) for page in found for directory in page.directories) == 100_001
