"""What a Command declares as outputs, and what of it is there when the command has ended."""

from __future__ import annotations

import os
import posixpath
import stat
from dataclasses import dataclass, field
from enum import Flag, auto
from pathlib import Path
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from gridwright.digest import Digest, DigestFunction
from gridwright.documents import OUTPUT_NODE_PROPERTIES, inside
from gridwright.errors import FailedPrecondition
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_worker.execution.documents import digest_message
from gridwright_worker.execution.inputs.stage import stays_within
from gridwright_worker.execution.output_trees import OutputTree, is_executable, make_tree, text

_READ_BYTES = 1024 * 1024
#: Files up to this size are read once and kept for the upload, up to _KEPT_BYTES together.
_KEEP_BYTES = 64 * 1024
_KEPT_BYTES = 8 * 1024 * 1024


class Kind(Flag):
    """What an output may turn out to be. ``output_paths`` says nothing; the older fields do."""

    FILE = auto()
    DIRECTORY = auto()


class DeclaredOutput(NamedTuple):
    """One output of a Command."""

    #: As the client wrote it, which is how the result says it (checklist OUT-08).
    path: str
    #: From the input root, without dots.
    location: str
    kind: Kind
    #: Declared in output_files or output_directories, whose symlinks are reported as of old (SYM-07, SYM-09).
    is_legacy: bool


def declared_outputs(command: pb.Command) -> list[DeclaredOutput]:
    """Return what *command* declares, each path once (checklist ACT-11 to ACT-19, OUT-09).

    Raises:
        InvalidRequest: a path is not inside the input root.
    """
    start = inside(command.working_directory, "", "working_directory")
    if command.output_paths:
        return [
            DeclaredOutput(path, inside(path, start, "output_paths"), Kind.FILE | Kind.DIRECTORY, False)
            for path in dict.fromkeys(command.output_paths)
        ]
    kinds: dict[str, Kind] = dict.fromkeys(command.output_files, Kind.FILE)
    for path in command.output_directories:
        # Buck2 lists each path in both fields, and means whichever it turns out to be (ACT-16).
        kinds[path] = kinds.get(path, Kind.DIRECTORY) | Kind.DIRECTORY
    return [DeclaredOutput(path, inside(path, start, "output_files"), kind, True) for path, kind in kinds.items()]


def output_parents(outputs: list[DeclaredOutput]) -> set[str]:
    """Return the directories that must be there before the command runs (checklist OUT-01, OUT-02)."""
    return {posixpath.dirname(output.location) for output in outputs} - {""}


@dataclass(slots=True)
class Collected:
    """What a command left, described in a result; blobs are bytes, or the path of a file that has them."""

    result: pb.ActionResult = field(default_factory=pb.ActionResult)
    blobs: dict[Digest, bytes | str] = field(default_factory=dict)


class Collector:
    """Collects the outputs of one action; all of it is work on files, to be called in a thread.

    No process of the action is left by then, so nothing changes while it is looked at
    (checklist OUT-21).
    """

    def __init__(self, command: pb.Command, function: DigestFunction, input_root: Path) -> None:
        self._command = command
        self._function = function
        self._input_root = input_root
        self._properties = OUTPUT_NODE_PROPERTIES & set(command.output_node_properties)
        self._collected = Collected()
        self._kept_bytes = 0

    def collect(self, outputs: list[DeclaredOutput], stdout: Path, stderr: Path) -> Collected:
        """Describe *outputs*, those that are there, and the two streams.

        Raises:
            FailedPrecondition: an output is not what it was declared to be, or nothing that can be kept.
        """
        result = self._collected.result
        for path, digest in ((stdout, result.stdout_digest), (stderr, result.stderr_digest)):
            if (found := _lstat(str(path))) and stat.S_ISREG(found.st_mode) and found.st_size:
                digest.CopyFrom(self._keep_file(str(path)))
        if outputs and not stat.S_ISDIR(os.lstat(self._input_root).st_mode):
            raise FailedPrecondition("the action has replaced its own input root by something else")
        for output in outputs:
            self._collect(output)
        return self._collected

    def _collect(self, output: DeclaredOutput) -> None:
        path = os.path.join(self._input_root, output.location) if output.location else str(self._input_root)
        found = _lstat(path)
        if found is None:
            return
        if not stays_within(self._input_root, posixpath.dirname(output.location)):
            raise FailedPrecondition(f"output {output.path!r} lies behind a symlink that leaves the input root")
        if stat.S_ISLNK(found.st_mode):
            self._collect_symlink(output, path, found)
        elif stat.S_ISREG(found.st_mode):
            _require(output, Kind.FILE, "a file")
            self._collected.result.output_files.append(
                pb.OutputFile(
                    path=output.path,
                    digest=self._keep_file(path),
                    is_executable=is_executable(found),
                    node_properties=self._properties_of(found),
                )
            )
        elif stat.S_ISDIR(found.st_mode):
            _require(output, Kind.DIRECTORY, "a directory")
            self._collect_directory(output, path)
        else:
            raise FailedPrecondition(f"output {output.path!r} is neither file nor directory nor symlink")

    def _collect_symlink(self, output: DeclaredOutput, path: str, found: os.stat_result) -> None:
        result = self._collected.result
        symlinks = result.output_symlinks
        if output.is_legacy:
            leads_to_directory = os.path.isdir(path)
            symlinks = result.output_directory_symlinks if leads_to_directory else result.output_file_symlinks
            if os.path.exists(path):
                kind, what = (Kind.DIRECTORY, "directory") if leads_to_directory else (Kind.FILE, "file")
                _require(output, kind, f"a symlink to a {what}")
            elif output.kind is Kind.DIRECTORY:
                symlinks = result.output_directory_symlinks
        symlinks.append(
            pb.OutputSymlink(
                path=output.path, target=text(os.readlink(path), path), node_properties=self._properties_of(found)
            )
        )

    def _collect_directory(self, output: DeclaredOutput, path: str) -> None:
        tree = make_tree(path, self._function, self._keep_file, self._properties_of)
        collected = pb.OutputDirectory(
            path=output.path,
            # Always, though some formats do not ask for it: Buck2 and reclient read nothing else (DIR-18).
            tree_digest=self._keep_bytes(tree.tree),
            is_topologically_sorted=True,
        )
        if self._command.output_directory_format in (
            pb.Command.DIRECTORY_ONLY,
            pb.Command.TREE_AND_DIRECTORY,
        ):
            collected.root_directory_digest.CopyFrom(self._keep_directories(tree))
        self._collected.result.output_directories.append(collected)

    def _keep_directories(self, tree: OutputTree) -> pb.Digest:
        """Keep every directory as a blob of its own, too; return the root's digest (checklist DIR-16, DIR-17)."""
        for directory in tree.directories.values():
            self._keep_bytes(directory)
        return digest_message(tree.root)

    def _keep_bytes(self, data: bytes) -> pb.Digest:
        digest = self._function.digest(data)
        self._collected.blobs[digest] = data
        return digest_message(digest)

    def _keep_file(self, path: str) -> pb.Digest:
        """Hash a file, and remember where its bytes are."""
        descriptor = _open_for_reading(path)
        with open(descriptor, "rb", buffering=0) as file:
            size = os.fstat(descriptor).st_size
            if size <= _KEEP_BYTES:
                data = file.read()
                digest = self._function.digest(data)
                keep = self._kept_bytes + len(data) <= _KEPT_BYTES
                self._kept_bytes += len(data) if keep else 0
                self._collected.blobs[digest] = data if keep else path
                return digest_message(digest)
            hasher = self._function.new()
            size_bytes = 0
            while chunk := file.read(_READ_BYTES):
                hasher.update(chunk)
                size_bytes += len(chunk)
        digest = Digest(self._function, hasher.hexdigest(), size_bytes)
        self._collected.blobs[digest] = path
        return digest_message(digest)

    def _properties_of(self, found: os.stat_result) -> pb.NodeProperties | None:
        """Return the node properties that were asked for, None if none were (checklist NOD-05, NOD-06)."""
        if not self._properties:
            return None
        properties = pb.NodeProperties()
        if "mtime" in self._properties:
            mtime = Timestamp()
            mtime.FromNanoseconds(found.st_mtime_ns)
            properties.mtime.CopyFrom(mtime)
        if "unix_mode" in self._properties:
            properties.unix_mode.value = stat.S_IMODE(found.st_mode)
        return properties


def _require(output: DeclaredOutput, kind: Kind, found: str) -> None:
    if kind not in output.kind:
        declared = "output_files" if output.kind is Kind.FILE else "output_directories"
        raise FailedPrecondition(f"{output.path!r} was declared in {declared}, but it is {found}")


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _open_for_reading(path: str) -> int:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except PermissionError:
        # The action took its own right to read; captured all the same (checklist OUT-15).
        os.chmod(path, 0o400)
        return os.open(path, flags)
