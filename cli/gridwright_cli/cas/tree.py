"""A directory tree in the CAS, as lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from gridwright.digest import Digest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ContentAddressableStorageClient
from gridwright.wire.digests import digest_message, make_digest
from gridwright_cli.cas.endpoint import Connection
from gridwright_cli.cas.plain import size

#: Of the whole tree: the server walks it as it sends it.
_TREE_SECONDS = 600.0


async def fetch_tree(connection: Connection, instance: str, root: Digest) -> Mapping[Digest, pb.Directory]:
    """Return the directories of a tree that the server has, by their digests.

    Raises:
        BlobNotFound, NotFound: the root is not there.
        GridwrightError: the server does not answer, or says that it is no directory.
    """
    client = ContentAddressableStorageClient(connection.channel)
    directories: dict[Digest, pb.Directory] = {}
    token = ""
    while True:
        request = pb.GetTreeRequest(
            instance_name=instance,
            root_digest=digest_message(root),
            page_token=token,
            digest_function=int(root.function),  # type: ignore[arg-type]  # the same numbers
        )
        before, token = token, ""
        async for page in client.get_tree(request, timeout=_TREE_SECONDS, metadata=connection.metadata):
            token = page.next_page_token
            for directory in page.directories:
                # The first one is the root, also where its bytes are not those that we would write.
                digest = root.function.digest(directory.SerializeToString(deterministic=True)) if directories else root
                directories[digest] = directory
        if token in ("", before):
            return directories


def tree_lines(root: Digest, directories: Mapping[Digest, pb.Directory], *, long: bool) -> Iterator[str]:
    """Yield a line for each file, symbolic link and directory, in the order of their names; deep trees are walked.

    With *long*, digest, size and whether it is executable come before the path.
    """
    left: list[tuple[PurePosixPath, Digest]] = [(PurePosixPath(), root)]
    while left:
        path, digest = left.pop()
        directory = directories.get(digest)
        if path.parts or directory is None:
            yield _line(f"{path}/" if directory is not None else f"{path}/ (missing)", "d", str(digest), None, long)
        if directory is None:
            continue
        for file in directory.files:
            named = make_digest(root.function, file.digest.hash, file.digest.size_bytes, field="file")
            yield _line(str(path / file.name), "x" if file.is_executable else "-", str(named), named.size_bytes, long)
        for link in directory.symlinks:
            yield _line(f"{path / link.name} -> {link.target}", "l", "", None, long)
        below = [
            (path / node.name, make_digest(root.function, node.digest.hash, node.digest.size_bytes, field="directory"))
            for node in directory.directories
        ]
        left.extend(reversed(below))


def _line(path: str, kind: str, digest: str, size_bytes: int | None, long: bool) -> str:
    if not long:
        return path
    return f"{kind} {size(size_bytes) if size_bytes is not None else '-':>10} {digest or '-'} {path}"
