"""What is inside output directories, read from the CAS once and remembered."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Set

from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobNotFound, GridwrightError, Unavailable
from gridwright_actioncache.results.references import (
    DirectoryReferences,
    MalformedDocument,
    references_of_directory,
    references_of_tree,
)

#: A Tree larger than this is not read, so its result is no hit: some 500,000 files.
_MAX_TREE_BYTES = 64 * 1024 * 1024
_MAX_DIRECTORIES = 100_000
#: So many are read at a time, each of which may be that large.
_READS = 8
#: Decoding more than this takes milliseconds, for which others are not to wait.
_DECODED_INLINE_BYTES = 256 * 1024
#: What a digest takes in memory: the tuple, its hash as text, and its place in a set.
_DIGEST_BYTES = 250

#: What of which blob, and of which CAS: what one storage domain holds, another one is not told.
_Key = tuple[str, Digest, int]
_Failure = GridwrightError | MalformedDocument


class Hierarchies:
    """Knows which blobs the Trees and directories of results name.

    A digest names the same bytes for ever, so what was inside once is inside always; whether
    the blobs are there is another question, asked each time. Builds name the same few Trees
    again and again, and decoding a large one costs more than all else that a hit costs. So
    one that many ask for at the same time is read once, too.

    Args:
        max_bytes: what may be remembered, in memory.
    """

    def __init__(self, *, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._remembered: OrderedDict[_Key, Set[Digest]] = OrderedDict()
        self._remembered_bytes = 0
        self._reads = asyncio.Semaphore(_READS)
        self._reading: dict[_Key, asyncio.Task[Set[Digest] | _Failure]] = {}

    async def aclose(self) -> None:
        """Give up what is being read."""
        reading = list(self._reading.values())
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)

    async def inside_tree(self, tree: Digest, blobs: BlobStore) -> Set[Digest]:
        """Return the files that the Tree names.

        Raises:
            BlobNotFound: the CAS lacks the Tree.
            MalformedDocument: it is none, or too large to be read.
            Unavailable: the CAS cannot answer.
        """
        return await self._known(("tree", tree, id(blobs)), lambda: _inside_tree(tree, blobs))

    async def below_directory(self, root: Digest, blobs: BlobStore) -> Set[Digest]:
        """Return all files and directories below the directory *root*, and itself.

        Raises:
            BlobNotFound: the CAS lacks a directory.
            MalformedDocument: one is none, or there are too many.
            Unavailable: the CAS cannot answer.
        """
        return await self._known(("directory", root, id(blobs)), lambda: _below_directory(root, blobs))

    async def _known(self, key: _Key, read: Callable[[], Coroutine[None, None, Set[Digest]]]) -> Set[Digest]:
        inside = self._remembered.get(key)
        if inside is not None:
            self._remembered.move_to_end(key)
            return inside
        task = self._reading.get(key)
        if task is None:
            task = self._reading[key] = asyncio.create_task(self._read(key, read()), name=f"reading {key[1]}")
        # The others who need the same are not to suffer when one caller leaves.
        answer = await asyncio.shield(task)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _read(self, key: _Key, reading: Coroutine[None, None, Set[Digest]]) -> Set[Digest] | _Failure:
        try:
            async with self._reads:
                inside = await reading
            self._remember(key, inside)
            return inside
        except (GridwrightError, MalformedDocument) as error:
            return error
        finally:
            del self._reading[key]

    def _remember(self, key: _Key, inside: Set[Digest]) -> None:
        if key in self._remembered or _cost_of(inside) > self._max_bytes:
            return
        self._remembered[key] = inside
        self._remembered_bytes += _cost_of(inside)
        while self._remembered_bytes > self._max_bytes:
            _, forgotten = self._remembered.popitem(last=False)
            self._remembered_bytes -= _cost_of(forgotten)


def _cost_of(inside: Set[Digest]) -> int:
    # The one more is the key, so that empty Trees are not free.
    return (len(inside) + 1) * _DIGEST_BYTES


async def _inside_tree(tree: Digest, blobs: BlobStore) -> Set[Digest]:
    if tree.size_bytes > _MAX_TREE_BYTES:
        raise MalformedDocument(f"Tree {tree} is too large to be checked")
    return (await _decoded(references_of_tree, await _read(tree, blobs), tree.function)).files


async def _below_directory(root: Digest, blobs: BlobStore) -> Set[Digest]:
    """Read the directories level by level."""
    files: set[Digest] = set()
    seen: set[Digest] = {root}
    level = {root}
    while level:
        below: set[Digest] = set()
        for digest, found in (await blobs.get_many(level)).items():
            references = await _decoded(references_of_directory, _bytes(digest, found), root.function)
            files |= references.files
            below |= references.directories
        level = below - seen
        seen |= level
        if len(seen) > _MAX_DIRECTORIES:
            raise MalformedDocument(f"directory {root} holds too many others to be checked")
    return files | seen


async def _read(digest: Digest, blobs: BlobStore) -> bytes:
    return _bytes(digest, (await blobs.get_many([digest]))[digest])


def _bytes(digest: Digest, found: bytes | GridwrightError) -> bytes:
    match found:
        case bytes():
            return found
        case BlobNotFound():
            raise found
        case _:
            raise Unavailable(f"the CAS cannot give {digest}: {found}")


async def _decoded(
    decode: Callable[[bytes, DigestFunction], DirectoryReferences], data: bytes, function: DigestFunction
) -> DirectoryReferences:
    if len(data) > _DECODED_INLINE_BYTES:
        return await asyncio.to_thread(decode, data, function)
    return decode(data, function)
