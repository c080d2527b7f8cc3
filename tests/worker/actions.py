"""Actions as tests write them: a shell line, a dictionary of inputs, and what to collect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import BlobStore, read_blob, write_blob
from gridwright.clock import SystemClock
from gridwright.digest import Digest, DigestFunction
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_worker.execution.hosttools import HostToolsRunner
from gridwright_worker.execution.inputs.cache import InputCache
from gridwright_worker.execution.inputs.files import CacheFiles
from gridwright_worker.execution.inputs.stage import Stager
from gridwright_worker.execution.inputs.tree import TreeLoader
from gridwright_worker.execution.local import Inputs, Limits, LocalExecutor
from gridwright_worker.execution.workspace import Workspace

SHA256 = DigestFunction.SHA256
PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class Program:
    """An executable input file."""

    text: str


@dataclass(frozen=True)
class Symlink:
    """A symbolic link among the inputs."""

    target: str


#: Names to text, Program, Symlink, or a folder again.
Inputs_ = Mapping[str, Any]


def message_of(digest: Digest) -> pb.Digest:
    return pb.Digest(hash=digest.hash, size_bytes=digest.size_bytes)


def digest_of(message: pb.Digest, function: DigestFunction = SHA256) -> Digest:
    return Digest(function, message.hash, message.size_bytes)


async def put_bytes(store: BlobStore, data: bytes, function: DigestFunction = SHA256) -> pb.Digest:
    digest = function.digest(data)
    await write_blob(store, digest, data)
    return message_of(digest)


async def put_tree(store: BlobStore, inputs: Inputs_, function: DigestFunction = SHA256) -> pb.Digest:
    """Upload a tree of inputs; return the digest of its root."""
    directory = pb.Directory()
    for name, content in sorted(inputs.items()):
        match content:
            case str():
                directory.files.append(
                    pb.FileNode(name=name, digest=await put_bytes(store, content.encode(), function))
                )
            case bytes():
                directory.files.append(pb.FileNode(name=name, digest=await put_bytes(store, content, function)))
            case Program(text):
                digest = await put_bytes(store, text.encode(), function)
                directory.files.append(pb.FileNode(name=name, digest=digest, is_executable=True))
            case Symlink(target):
                directory.symlinks.append(pb.SymlinkNode(name=name, target=target))
            case _:
                directory.directories.append(
                    pb.DirectoryNode(name=name, digest=await put_tree(store, content, function))
                )
    return await put_bytes(store, directory.SerializeToString(deterministic=True), function)


async def put_action(
    store: BlobStore,
    command: pb.Command | str,
    inputs: Inputs_ | None = None,
    *,
    timeout_seconds: float = 0,
    function: DigestFunction = SHA256,
    **fields: Any,
) -> pb.Action:
    """Upload the documents of an action; a string is a line for /bin/sh, *fields* are the Command's."""
    if isinstance(command, str):
        command = shell(command, **fields)
    action = pb.Action(
        command_digest=await put_bytes(store, command.SerializeToString(), function),
        input_root_digest=await put_tree(store, inputs or {}, function),
    )
    if timeout_seconds:
        action.timeout.FromNanoseconds(int(timeout_seconds * 1e9))
    return action


def shell(line: str, environment: Mapping[str, str] | None = None, **fields: Any) -> pb.Command:
    variables = {"PATH": PATH, **(environment or {})}
    return pb.Command(
        arguments=["/bin/sh", "-c", line],
        environment_variables=[
            pb.Command.EnvironmentVariable(name=name, value=value) for name, value in sorted(variables.items())
        ],
        **fields,
    )


@dataclass
class Bench:
    """One slot of a worker, and a CAS in memory."""

    directory: Path
    executor: LocalExecutor
    store: MemoryStore
    inputs: Inputs
    workspace: Workspace

    @property
    def cache(self) -> InputCache:
        return self.inputs.cache

    def neighbour(self) -> Bench:
        """Return another slot of the same worker."""
        workspace = Workspace(self.directory / "slots" / "1")
        workspace.clear()
        runner = HostToolsRunner(workspace, fixed_path=None, kill_grace_seconds=0.2)
        executor = LocalExecutor("w1", self.store, self.inputs, workspace, runner, Limits(60, 86_400), SystemClock())
        return Bench(self.directory, executor, self.store, self.inputs, workspace)

    async def execute(
        self,
        command: pb.Command | str,
        inputs: Inputs_ | None = None,
        *,
        function: DigestFunction = SHA256,
        **rest: Any,
    ) -> Executed:
        """Upload an action and execute it."""
        action = await put_action(self.store, command, inputs, function=function, **rest)
        return Executed(await self.executor.execute(action, function), self.store, function)


@dataclass
class Executed:
    """A result, with ways to look at it."""

    result: pb.ActionResult
    store: BlobStore
    function: DigestFunction = SHA256
    exit_code: int = field(init=False)

    def __post_init__(self) -> None:
        self.exit_code = self.result.exit_code

    async def stdout(self) -> str:
        return await self._text(self.result.stdout_digest)

    async def stderr(self) -> str:
        return await self._text(self.result.stderr_digest)

    async def files(self) -> dict[str, str]:
        return {one.path: await self._text(one.digest) for one in self.result.output_files}

    async def tree(self, path: str) -> pb.Tree:
        digest = next(one.tree_digest for one in self.result.output_directories if one.path == path)
        return pb.Tree.FromString(await read_blob(self.store, digest_of(digest, self.function)))

    async def _text(self, digest: pb.Digest) -> str:
        if not digest.hash:
            return ""
        return (await read_blob(self.store, digest_of(digest, self.function))).decode()


def make_bench(
    directory: Path,
    *,
    store: MemoryStore | None = None,
    cache_bytes: int = 2**30,
    fixed_path: bool = False,
    default_timeout_seconds: float = 60,
    link: Any = None,
) -> Bench:
    """Put together what ``app.py`` does, without a scheduler; open the cache before use."""
    store = store or MemoryStore(max_bytes=2**30)
    cache = InputCache(CacheFiles(directory / "cache"), store, max_bytes=cache_bytes)
    workspace = Workspace(directory / "slots" / "0")
    workspace.clear()
    fixed = directory / "slot"
    fixed.mkdir(exist_ok=True)
    runner = HostToolsRunner(workspace, fixed_path=fixed if fixed_path else None, kill_grace_seconds=0.2)
    stager = Stager(cache.path, cache.is_private, *([link] if link else []))
    inputs = Inputs(TreeLoader(store), cache, stager)
    limits = Limits(default_timeout_seconds, 86_400)
    executor = LocalExecutor("w1", store, inputs, workspace, runner, limits, SystemClock())
    return Bench(directory, executor, store, inputs, workspace)


def names(entries: Sequence[pb.FileNode | pb.DirectoryNode | pb.SymlinkNode]) -> list[str]:
    return [entry.name for entry in entries]
