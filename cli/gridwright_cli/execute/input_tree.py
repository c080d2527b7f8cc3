"""A directory of this machine as the inputs of an action: its Merkle tree, and where each blob's bytes are."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gridwright.digest import Digest, DigestFunction
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.digests import digest_message

_READ_BYTES = 1024 * 1024
#: What no real tree reaches, and Python's own stack bears.
_MAX_DEPTH = 200

#: A blob's bytes, or the file that holds them.
Source = bytes | Path


class UnusableInput(Exception):
    """The input directory cannot be sent as it is; the text names the path."""


@dataclass(frozen=True, slots=True)
class InputTree:
    """What an action needs: the root's digest, and every blob below it."""

    root: Digest
    blobs: Mapping[Digest, Source]


def read_input_tree(directory: Path | None, function: DigestFunction) -> InputTree:
    """Read *directory* and all below it; None stands for an empty one.

    Symbolic links are sent as such. Messages are canonical: names in order, no name twice
    (checklist DIR).

    Raises:
        UnusableInput: naming what cannot be read, or not be sent.
    """
    blobs: dict[Digest, Source] = {}
    if directory is None:
        root = _keep(pb.Directory(), function, blobs)
    else:
        try:
            root = _read_directory(directory, function, blobs, depth=0)
        except OSError as error:
            raise UnusableInput(f"cannot read {error.filename or directory}: {error.strerror}") from None
    return InputTree(root, blobs)


def _read_directory(directory: Path, function: DigestFunction, blobs: dict[Digest, Source], *, depth: int) -> Digest:
    if depth > _MAX_DEPTH:
        raise UnusableInput(f"{directory} lies more than {_MAX_DEPTH} directories deep")
    message = pb.Directory()
    with os.scandir(directory) as scan:
        entries = sorted(scan, key=lambda entry: os.fsencode(entry.name))
    for entry in entries:
        path = directory / entry.name
        _check_text(entry.name, path)
        info = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(info.st_mode):
            target = os.readlink(path)
            _check_text(target, path)
            message.symlinks.add(name=entry.name, target=target)
        elif stat.S_ISDIR(info.st_mode):
            digest = _read_directory(path, function, blobs, depth=depth + 1)
            message.directories.add(name=entry.name, digest=digest_message(digest))
        elif stat.S_ISREG(info.st_mode):
            digest = _hash(path, function)
            blobs.setdefault(digest, path)
            executable = bool(info.st_mode & stat.S_IXUSR)
            message.files.add(name=entry.name, digest=digest_message(digest), is_executable=executable)
        else:
            raise UnusableInput(f"{path} is neither a file, nor a directory, nor a symbolic link")
    return _keep(message, function, blobs)


def _keep(message: pb.Directory, function: DigestFunction, blobs: dict[Digest, Source]) -> Digest:
    data = message.SerializeToString(deterministic=True)
    digest = function.digest(data)
    blobs[digest] = data
    return digest


def _hash(path: Path, function: DigestFunction) -> Digest:
    hasher = function.new()
    size_bytes = 0
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            hasher.update(chunk)
            size_bytes += len(chunk)
    return Digest(function, hasher.hexdigest(), size_bytes)


def _check_text(text: str, path: Path) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnusableInput(f"{os.fsencode(path)!r} is not UTF-8, as REAPI needs names to be") from None
