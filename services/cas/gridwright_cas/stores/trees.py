"""The directory trees that clients keep in the CAS, and how to walk one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError

from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest
from gridwright.errors import BlobNotFound, GridwrightError, InvalidRequest, ResourceExhausted
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb

#: A walk remembers every Directory that it has met, at about 250 bytes each.
MAX_DIRECTORIES = 200_000
#: A larger Directory (some 100,000 entries) fits in no message.
MAX_DIRECTORY_BYTES = 15 * 1024 * 1024
#: How much of a level is read at once.
_READ_BYTES = 4 * 1024 * 1024
_READ_COUNT = 1_000
#: To parse less takes less time than to hand it to a thread.
_INLINE_BYTES = 64 * 1024

#: Checks a digest message found inside the Directory of the given digest, and returns it as a Digest.
ChildDigest = Callable[[pb.Digest, Digest], Digest]


class FoundDirectory(NamedTuple):
    """One Directory of a tree."""

    digest: Digest
    directory: pb.Directory


class Family(NamedTuple):
    """A Directory, and which others it names."""

    parent: FoundDirectory
    children: Sequence[Digest]


async def walk_tree(store: BlobStore, root: Digest, child_digest: ChildDigest) -> AsyncIterator[FoundDirectory]:
    """Yield each distinct Directory of the tree once, breadth first, always in the same order.

    Levels are read in bulk. Subtrees that are missing are left out (checklist GT-03). What is
    in memory is one batch, and the digests of what was met and of the level below.

    Raises:
        BlobNotFound: the root is missing.
        InvalidRequest: a blob of the tree is no Directory, or too large for one.
        ResourceExhausted: the tree has more than ``MAX_DIRECTORIES``.
    """
    seen = {root}
    level = [root]
    while level:
        below: list[Digest] = []
        for batch in _batches(level):
            found = await store.get_many(batch)
            blobs = {
                digest: blob for digest in batch if (blob := _blob(found[digest], is_root=digest == root)) is not None
            }
            del found
            for one, children in await _read(blobs, child_digest):
                new = [child for child in children if child not in seen]
                seen.update(new)
                below += new
                if len(seen) > MAX_DIRECTORIES:
                    raise ResourceExhausted(
                        f"the tree {root} has more than {MAX_DIRECTORIES} distinct directories; ask for its parts"
                    )
                yield one
        level = below


def _blob(found: bytes | GridwrightError, *, is_root: bool) -> bytes | None:
    """Return the bytes that were found, or None where a subtree is missing."""
    if isinstance(found, BlobNotFound) and not is_root:
        return None
    if isinstance(found, GridwrightError):
        raise found
    return found


async def _read(blobs: Mapping[Digest, bytes], child_digest: ChildDigest) -> list[Family]:
    """Return the Directories that *blobs* are, each with its children; a hundred thousand entries take a second."""
    if sum(map(len, blobs.values())) <= _INLINE_BYTES:
        return _families(blobs, child_digest)
    return await asyncio.to_thread(_families, blobs, child_digest)


def _families(blobs: Mapping[Digest, bytes], child_digest: ChildDigest) -> list[Family]:
    return [_family(digest, blob, child_digest) for digest, blob in blobs.items()]


def _family(digest: Digest, blob: bytes, child_digest: ChildDigest) -> Family:
    try:
        directory = pb.Directory.FromString(blob)
    except DecodeError:
        raise InvalidRequest(f"blob {digest} is not a Directory", field="root_digest") from None
    # Each child once, in the order of the Directory.
    children = dict.fromkeys([child_digest(node.digest, digest) for node in directory.directories])
    return Family(FoundDirectory(digest, directory), list(children))


def _batches(level: Sequence[Digest]) -> list[list[Digest]]:
    batches: list[list[Digest]] = []
    size_bytes = 0
    for digest in level:
        if digest.size_bytes > MAX_DIRECTORY_BYTES:
            raise InvalidRequest(f"blob {digest} is too large for a Directory, which has {MAX_DIRECTORY_BYTES} at most")
        size_bytes += digest.size_bytes
        if not batches or size_bytes > _READ_BYTES or len(batches[-1]) == _READ_COUNT:
            batches.append([])
            size_bytes = digest.size_bytes
        batches[-1].append(digest)
    return batches
