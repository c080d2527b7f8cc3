"""Directories on disk become Tree and Directory documents."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gridwright.digest import Digest, DigestFunction
from gridwright.errors import FailedPrecondition
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_worker.execution.documents import digest_message

#: Well below Python's limit of recursion.
_MAX_DEPTH = 500

KeepFile = Callable[[str], pb.Digest]
PropertiesOf = Callable[[os.stat_result], pb.NodeProperties | None]


@dataclass(frozen=True, slots=True)
class OutputTree:
    """A directory with all below it, as documents in canonical form (checklist DIR-12 to DIR-15)."""

    root: Digest
    #: Each distinct Directory once, parents before their children, the root first.
    directories: Mapping[Digest, bytes]

    @property
    def tree(self) -> bytes:
        """The Tree document: the same content makes the same bytes on every worker."""
        root, *children = self.directories.values()
        tree = pb.Tree(children=map(pb.Directory.FromString, children))
        tree.root.ParseFromString(root)
        tree.root.SetInParent()
        return tree.SerializeToString(deterministic=True)


def make_tree(path: str, function: DigestFunction, keep_file: KeepFile, properties_of: PropertiesOf) -> OutputTree:
    """Describe the directory at *path*; *keep_file* is told of every file in it.

    Raises:
        FailedPrecondition: it holds something that a Directory cannot describe (checklist OUT-13, OUT-16).
    """
    scanner = _Scanner(function, keep_file, properties_of)
    root = scanner.scan(path)
    # Children were finished before their parents, so the other way round parents come first, also
    # where a directory has several.
    return OutputTree(root, dict(reversed(scanner.finished.items())))


class _Scanner:
    def __init__(self, function: DigestFunction, keep_file: KeepFile, properties_of: PropertiesOf) -> None:
        self._function = function
        self._keep_file = keep_file
        self._properties_of = properties_of
        #: In the order in which they were first finished.
        self.finished: dict[Digest, bytes] = {}

    def scan(self, path: str, depth: int = 0) -> Digest:
        """Return the digest of the directory at *path*, with all below it finished."""
        if depth > _MAX_DEPTH:
            raise FailedPrecondition(f"an output directory nests more than {_MAX_DEPTH} deep")
        directory = pb.Directory(node_properties=self._properties_of(os.stat(path, follow_symlinks=False)))
        for entry in _sorted_entries(path):
            name = text(entry.name, entry.path)
            found = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                digest = self.scan(entry.path, depth + 1)
                directory.directories.append(pb.DirectoryNode(name=name, digest=digest_message(digest)))
            elif stat.S_ISREG(found.st_mode):
                directory.files.append(
                    pb.FileNode(
                        name=name,
                        digest=self._keep_file(entry.path),
                        is_executable=is_executable(found),
                        node_properties=self._properties_of(found),
                    )
                )
            elif stat.S_ISLNK(found.st_mode):
                target = text(os.readlink(entry.path), entry.path)
                directory.symlinks.append(
                    pb.SymlinkNode(name=name, target=target, node_properties=self._properties_of(found))
                )
            else:
                raise FailedPrecondition(f"output {entry.path!r} is neither file nor directory nor symlink")
        document = directory.SerializeToString(deterministic=True)
        digest = self._function.digest(document)
        self.finished.setdefault(digest, document)
        return digest


def is_executable(found: os.stat_result) -> bool:
    """Return whether the owner may execute the file (checklist OUT-14)."""
    return bool(found.st_mode & stat.S_IXUSR)


def text(name: str, where: str) -> str:
    """Return *name*, which a message can hold (checklist OUT-16).

    Raises:
        FailedPrecondition: it is not UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise FailedPrecondition(f"{os.fsencode(where)!r} is not valid UTF-8, which outputs must be") from None
    return name


def _sorted_entries(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except PermissionError:
        # The action took its own right to look; captured all the same (checklist OUT-15).
        os.chmod(path, 0o700)
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: os.fsencode(entry.name))
