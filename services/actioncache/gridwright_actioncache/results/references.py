"""Which blobs a document names: what must be in the CAS for a result to be of use (checklist ACG-05)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

from google.protobuf.message import DecodeError

from gridwright.digest import Digest, DigestFunction
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb

Document = TypeVar("Document", pb.ActionResult, pb.Tree, pb.Directory)


class MalformedDocument(ValueError):
    """Bytes that are no such document, or one whose digests are none."""


class OutputDirectory(NamedTuple):
    """The two forms in which a result may name an output directory; at least one is there."""

    #: A Tree, which holds all directories.
    tree: Digest | None
    #: A Directory, whose blob names those below it.
    root: Digest | None


class ResultReferences(NamedTuple):
    """What an ActionResult names."""

    #: Files, streams, and the blobs that stand for output directories.
    blobs: frozenset[Digest]
    #: What is inside them is named by the result as well.
    directories: tuple[OutputDirectory, ...]


class DirectoryReferences(NamedTuple):
    """What a Directory, or all those of a Tree, name."""

    files: frozenset[Digest]
    directories: frozenset[Digest]


def references_of_result(data: bytes, function: DigestFunction) -> ResultReferences:
    """Return what the ActionResult in *data* names; digests have the *function* of the action's (DIG-11).

    A file counts also when its contents are in the result: who gets the result may name it as an input.

    Raises:
        MalformedDocument: *data* is no ActionResult.
    """
    result = _parse(pb.ActionResult, data)
    blobs = {_digest(file.digest, function) for file in result.output_files}
    blobs.update(_digest(one, function) for one in (result.stdout_digest, result.stderr_digest) if one.hash)
    directories = []
    for directory in result.output_directories:
        tree, root = directory.tree_digest, directory.root_directory_digest
        if not tree.hash and not root.hash:
            raise MalformedDocument(f"output directory {directory.path[:200]!r} has no digest")
        directories.append(
            OutputDirectory(
                _digest(tree, function) if tree.hash else None, _digest(root, function) if root.hash else None
            )
        )
    blobs.update(digest for directory in directories for digest in directory if digest is not None)
    return ResultReferences(frozenset(_needed(blobs)), tuple(directories))


def references_of_tree(data: bytes, function: DigestFunction) -> DirectoryReferences:
    """Return what the directories of the Tree in *data* name.

    Raises:
        MalformedDocument: *data* is no Tree.
    """
    tree = _parse(pb.Tree, data)
    return _references([tree.root, *tree.children], function)


def references_of_directory(data: bytes, function: DigestFunction) -> DirectoryReferences:
    """Return what the Directory in *data* names.

    Raises:
        MalformedDocument: *data* is no Directory.
    """
    return _references([_parse(pb.Directory, data)], function)


def _references(directories: Iterable[pb.Directory], function: DigestFunction) -> DirectoryReferences:
    files: set[Digest] = set()
    below: set[Digest] = set()
    for directory in directories:
        files.update(_digest(node.digest, function) for node in directory.files)
        below.update(_digest(node.digest, function) for node in directory.directories)
    return DirectoryReferences(frozenset(_needed(files)), frozenset(_needed(below)))


def _needed(digests: Iterable[Digest]) -> Iterator[Digest]:
    """Yield all but the empty blob, which every CAS has always (LIF-05)."""
    return (digest for digest in digests if digest.size_bytes or digest != digest.function.empty)


def _digest(message: pb.Digest, function: DigestFunction) -> Digest:
    try:
        return Digest.checked(function, message.hash, message.size_bytes)
    except ValueError as error:
        raise MalformedDocument(str(error)) from None


def _parse(kind: type[Document], data: bytes) -> Document:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise MalformedDocument(f"no {kind.__name__}: {error}") from None
