"""What is inside output directories, read from the CAS once and remembered."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Set

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
#: Decoding more than this takes milliseconds, for which others are not to wait.
_DECODED_INLINE_BYTES = 256 * 1024


class Hierarchies:
    """Knows which blobs the Trees and directories of results name.

    A digest names the same bytes for ever, so what was inside once is inside always; whether
    the blobs are there is another question, asked each time. Builds name the same few Trees
    again and again, and decoding a large one costs more than all else that a hit costs.

    Args:
        max_digests: how many digests are remembered; each takes some 250 bytes.
    """

    def __init__(self, *, max_digests: int = 100_000) -> None:
        self._max_digests = max_digests
        self._remembered: OrderedDict[tuple[str, Digest], Set[Digest]] = OrderedDict()
        self._remembered_digests = 0

    async def inside_tree(self, tree: Digest, blobs: BlobStore, *, with_directories: bool) -> Set[Digest]:
        """Return the files that the Tree names, and its directories if they are to be there as blobs, too.

        Raises:
            BlobNotFound: the CAS lacks the Tree.
            MalformedDocument: it is none, or too large to be read.
            Unavailable: the CAS cannot answer.
        """
        key = ("tree with directories" if with_directories else "tree", tree)
        inside = self._recall(key)
        if inside is None:
            if tree.size_bytes > _MAX_TREE_BYTES:
                raise MalformedDocument(f"Tree {tree} is too large to be checked")
            found = await _decoded(references_of_tree, await _read(tree, blobs), tree.function)
            inside = found.files | found.directories if with_directories else found.files
            self._remember(key, inside)
        return inside

    async def below_directory(self, root: Digest, blobs: BlobStore) -> Set[Digest]:
        """Return all files and directories below the directory *root*, level by level.

        Raises:
            BlobNotFound: the CAS lacks a directory.
            MalformedDocument: one is none, or there are too many.
            Unavailable: the CAS cannot answer.
        """
        key = ("directory", root)
        inside = self._recall(key)
        if inside is None:
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
            inside = files | seen
            self._remember(key, inside)
        return inside

    def _recall(self, key: tuple[str, Digest]) -> Set[Digest] | None:
        inside = self._remembered.get(key)
        if inside is not None:
            self._remembered.move_to_end(key)
        return inside

    def _remember(self, key: tuple[str, Digest], inside: Set[Digest]) -> None:
        if key in self._remembered or len(inside) >= self._max_digests:
            return
        self._remembered[key] = inside
        # The one more is the key, so that empty Trees are not free.
        self._remembered_digests += len(inside) + 1
        while self._remembered_digests > self._max_digests:
            _, forgotten = self._remembered.popitem(last=False)
            self._remembered_digests -= len(forgotten) + 1


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
