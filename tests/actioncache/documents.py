"""Documents that results name, for tests."""

from __future__ import annotations

import os
from collections.abc import Mapping

from gridwright.digest import Digest, DigestFunction
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb

SHA256 = DigestFunction.SHA256


def a_blob() -> Digest:
    """Return the digest of a blob that nobody has."""
    return SHA256.digest(os.urandom(20))


def message(digest: Digest) -> pb.Digest:
    """Return the message that says *digest*."""
    return pb.Digest(hash=digest.hash, size_bytes=digest.size_bytes)


def directory(
    files: Mapping[str, Digest] | None = None, directories: Mapping[str, pb.Directory] | None = None
) -> pb.Directory:
    """Return a directory of *files* and *directories*."""
    return pb.Directory(
        files=[pb.FileNode(name=name, digest=message(digest)) for name, digest in sorted((files or {}).items())],
        directories=[
            pb.DirectoryNode(name=name, digest=message(SHA256.digest(below.SerializeToString())))
            for name, below in sorted((directories or {}).items())
        ],
    )


def tree(root: pb.Directory, *children: pb.Directory) -> bytes:
    """Return the bytes of a Tree."""
    return pb.Tree(root=root, children=children).SerializeToString()
