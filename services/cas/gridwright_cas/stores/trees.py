"""The directory trees that clients keep in the CAS, and how to walk one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
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

#: Checks a digest message found inside the Directory of the given digest, and returns it as a Digest.
ChildDigest = Callable[[pb.Digest, Digest], Digest]


class FoundDirectory(NamedTuple):
    """One Directory of a tree."""

    digest: Digest
    directory: pb.Directory


async def walk_tree(store: BlobStore, root: Digest, child_digest: ChildDigest) -> AsyncIterator[FoundDirectory]:
    """Yield each distinct Directory of the tree once, breadth first, always in the same order.

    Levels are read in bulk. Subtrees that are missing are left out (checklist GT-03).

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
            for digest in batch:
                blob = found[digest]
                if isinstance(blob, BlobNotFound) and digest != root:
                    continue
                if isinstance(blob, GridwrightError):
                    raise blob
                directory = _parse(digest, blob)
                for node in directory.directories:
                    child = child_digest(node.digest, digest)
                    if child not in seen:
                        seen.add(child)
                        below.append(child)
                if len(seen) > MAX_DIRECTORIES:
                    raise ResourceExhausted(f"the tree {root} has more than {MAX_DIRECTORIES} distinct directories")
                yield FoundDirectory(digest, directory)
        level = below


def _parse(digest: Digest, blob: bytes) -> pb.Directory:
    try:
        return pb.Directory.FromString(blob)
    except DecodeError:
        raise InvalidRequest(f"blob {digest} is not a Directory") from None


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
