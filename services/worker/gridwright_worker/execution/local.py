"""Executing actions on this machine."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from gridwright.blobs.store import BlobStore
from gridwright.clock import Clock
from gridwright.digest import Digest, DigestFunction
from gridwright.documents import check_command, inside
from gridwright.errors import (
    BlobNotFound,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    MissingBlobs,
    Unavailable,
)
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_worker.execution.documents import digest_in, fetch_documents, parse
from gridwright_worker.execution.executor import ActionTimedOut, Executor
from gridwright_worker.execution.inputs.cache import InputCache
from gridwright_worker.execution.inputs.stage import Stager, make_parents, stays_within
from gridwright_worker.execution.inputs.tree import InputTree, TreeLoader
from gridwright_worker.execution.outputs import (
    Collected,
    Collector,
    DeclaredOutput,
    declared_outputs,
    output_parents,
)
from gridwright_worker.execution.runner import Ended, Run, Runner
from gridwright_worker.execution.threads import in_thread
from gridwright_worker.execution.upload import upload
from gridwright_worker.execution.workspace import Workspace

#: What buildbox and coreutils' timeout(1) report of a process that had to be killed.
_KILLED = 137
#: What another machine, or this one later, may not suffer from.
_PASSING = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
)
#: What an action can bring about among its outputs: loops, paths too long, directories that nobody may enter.
_OF_THE_ACTION = frozenset({errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM})


@dataclass(frozen=True, slots=True)
class Limits:
    """How long commands may run."""

    default_timeout_seconds: float
    max_timeout_seconds: float

    def timeout_of(self, action: pb.Action) -> float:
        """Return the timeout of *action* in seconds (checklist POL-05, 07, 08).

        Raises:
            InvalidRequest: it is negative, or longer than is allowed here.
        """
        seconds = action.timeout.ToNanoseconds() / 1e9
        if seconds < 0 or seconds > self.max_timeout_seconds:
            raise InvalidRequest(
                f"the action's timeout of {seconds:g} s is not between 0 and {self.max_timeout_seconds:g} s",
                field="timeout",
            )
        return seconds or self.default_timeout_seconds


@dataclass(frozen=True, slots=True)
class Inputs:
    """How actions come by their inputs; all slots of a worker share one."""

    trees: TreeLoader
    cache: InputCache
    stager: Stager


class LocalExecutor(Executor):
    """Executes actions in the workspace of one slot."""

    def __init__(
        self,
        worker: str,
        store: BlobStore,
        inputs: Inputs,
        workspace: Workspace,
        runner: Runner,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._worker = worker
        self._store = store
        self._inputs = inputs
        self._workspace = workspace
        self._runner = runner
        self._limits = limits
        self._clock = clock
        #: The last action's files are removed while its result is on its way.
        self._clearing: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<LocalExecutor {self._workspace.directory} {self._runner}>"

    async def execute(self, action: pb.Action, function: DigestFunction) -> pb.ActionResult:
        metadata = pb.ExecutedActionMetadata(worker=self._worker)
        self._stamp(metadata.worker_start_timestamp)
        timeout_seconds = self._limits.timeout_of(action)
        try:
            with _faults_of_the_machine():
                await self._cleared()
                self._stamp(metadata.input_fetch_start_timestamp)
                command, tree = await self._load(action, function)
                outputs = declared_outputs(command)
                directory = inside(command.working_directory, "", "working_directory")
                # Held until all is uploaded: inputs can be among the outputs, and a link keeps a file's bytes,
                # so removing it would free nothing.
                async with self._inputs.cache.holding(tree.files()):
                    ended = await self._run(command, tree, directory, outputs, timeout_seconds, metadata)
                    self._stamp(metadata.output_upload_start_timestamp)
                    collected = await self._collect(command, function, outputs)
                    await upload(self._store, collected.blobs)
                    self._stamp(metadata.output_upload_completed_timestamp)
        finally:
            self._clearing = asyncio.ensure_future(in_thread(self._workspace.clear))
        self._stamp(metadata.worker_completed_timestamp)
        result = collected.result
        result.exit_code = _KILLED if ended.timed_out else ended.exit_code
        result.execution_metadata.CopyFrom(metadata)
        if ended.timed_out:
            raise ActionTimedOut(timeout_seconds, result)
        return result

    async def close(self) -> None:
        await self._runner.close()
        if self._clearing is not None:
            await self._clearing

    async def _run(
        self,
        command: pb.Command,
        tree: InputTree,
        working_directory: str,
        outputs: list[DeclaredOutput],
        timeout_seconds: float,
        metadata: pb.ExecutedActionMetadata,
    ) -> Ended:
        await in_thread(self._stage, tree, working_directory, output_parents(outputs))
        self._stamp(metadata.input_fetch_completed_timestamp)
        self._stamp(metadata.execution_start_timestamp)
        ended = await self._runner.run(
            Run(
                arguments=command.arguments,
                # Of names that occur twice the last counts (checklist ACT-08).
                environment={one.name: one.value for one in command.environment_variables},
                working_directory=working_directory,
                timeout_seconds=timeout_seconds,
            )
        )
        self._stamp(metadata.execution_completed_timestamp)
        metadata.virtual_execution_duration.FromNanoseconds(int(ended.wall_seconds * 1e9))
        return ended

    async def _load(self, action: pb.Action, function: DigestFunction) -> tuple[pb.Command, InputTree]:
        """Return the documents of *action*.

        Raises:
            MissingBlobs: naming all that is missing, files as well where documents are.
        """
        command_digest = digest_in(action.command_digest, function, "command_digest")
        root = digest_in(action.input_root_digest, function, "input_root_digest")
        tree = await self._inputs.trees.load(root)
        command = await self._load_command(command_digest)
        if command is None or tree.missing:
            files = {file.digest for file in tree.files()}
            missing = {*tree.missing, *(await self._store.missing(files) if files else ())}
            raise MissingBlobs(missing if command else {*missing, command_digest})
        check_command(command)
        return command, tree

    async def _load_command(self, digest: Digest) -> pb.Command | None:
        document = (await fetch_documents(self._store, [digest]))[digest]
        return None if isinstance(document, BlobNotFound) else parse(pb.Command, document, digest)

    def _stage(self, tree: InputTree, working_directory: str, parents: set[str]) -> None:
        root = self._workspace.input_root
        self._inputs.stager.stage(tree, root)
        # Before the parents of outputs are made: leading to an output is not being in the inputs (ACT-09).
        if not (stays_within(root, working_directory) and (root / working_directory).is_dir()):
            raise InvalidRequest(
                f"the working directory {working_directory!r} is not in the input root", field="working_directory"
            )
        make_parents(root, parents)

    async def _collect(self, command: pb.Command, function: DigestFunction, outputs: list[DeclaredOutput]) -> Collected:
        collector = Collector(command, function, self._workspace.input_root)
        try:
            return await in_thread(collector.collect, outputs, self._workspace.stdout, self._workspace.stderr)
        except OSError as failure:
            if failure.errno in _OF_THE_ACTION:
                raise FailedPrecondition(f"an output cannot be read: {failure}") from failure
            raise

    async def _cleared(self) -> None:
        clearing, self._clearing = self._clearing, None
        await (clearing or in_thread(self._workspace.clear))

    def _stamp(self, timestamp: Timestamp) -> None:
        timestamp.FromNanoseconds(int(self._clock.now() * 1e9))


@contextmanager
def _faults_of_the_machine() -> Iterator[None]:
    try:
        yield
    except OSError as failure:
        if failure.errno == errno.ENAMETOOLONG:
            raise InvalidRequest(f"a path of the input root is too long: {failure}") from failure
        kind = Unavailable if failure.errno in _PASSING else InternalError
        raise kind(f"a worker cannot run the action: {failure}") from failure
