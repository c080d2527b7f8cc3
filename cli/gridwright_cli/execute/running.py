"""Runs one command on a grid, from the upload of its inputs to its outputs on this machine's disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from google.longrunning import operations_pb2
from google.rpc import code_pb2

from gridwright.blobs.remote import RemoteStore
from gridwright.blobs.store import BlobStore
from gridwright.digest import DigestFunction
from gridwright.errors import GridwrightError, Unimplemented
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.longrunning.operations_rpc import OperationsClient
from gridwright.wire.digests import digest_message, make_digest
from gridwright.wire.retrying_channel import RetryingChannel
from gridwright.wire.rpc import Channel, Metadata
from gridwright.wire.statuses import error_of_status
from gridwright_cli.execute.action import Wish, describe
from gridwright_cli.execute.following import START_PATIENCE_SECONDS, Follower
from gridwright_cli.execute.input_tree import read_input_tree
from gridwright_cli.execute.output_files import fetch_outputs, not_produced
from gridwright_cli.execute.upload import upload

_CANCEL_SECONDS = 2.0
_STAGES = {
    pb.ExecutionStage.CACHE_CHECK: "looking for a cached result",
    pb.ExecutionStage.QUEUED: "waiting for a worker",
    pb.ExecutionStage.EXECUTING: "running",
    pb.ExecutionStage.COMPLETED: "finished",
}


@dataclass(frozen=True, slots=True)
class Streams:
    """Where the command's output goes, byte for byte, and where ours does."""

    stdout: BinaryIO
    stderr: BinaryIO
    report: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went."""

    exit_code: int
    not_produced: Sequence[str]


class Runner:
    """One invocation's connection to one instance of a grid."""

    def __init__(self, channel: Channel, instance: str, function: DigestFunction, metadata: Metadata) -> None:
        self._channel = channel
        self._instance = instance
        self._function = function
        self._metadata = metadata
        impatient = RetryingChannel(channel, patience_seconds=START_PATIENCE_SECONDS)
        self._store_at_start: BlobStore = RemoteStore(impatient, instance, metadata=metadata)
        self._store: BlobStore = RemoteStore(RetryingChannel(channel), instance, metadata=metadata)

    async def run(
        self, wish: Wish, inputs: Path | None, into: Path, streams: Streams, *, skip_cache: bool = False
    ) -> Outcome:
        """Run *wish* with the directory *inputs*, bring its outputs into *into*, pass its output streams on.

        Raises:
            UnusableInput: the input directory cannot be sent.
            UnusableOutput: an output cannot be written.
            GridwrightError: the grid cannot run it.
        """
        tree = await asyncio.to_thread(read_input_tree, inputs, self._function)
        action, documents = describe(wish, tree.root)
        await upload(self._store_at_start, {**tree.blobs, **documents}, streams.report)
        request = pb.ExecuteRequest(
            instance_name=self._instance,
            action_digest=digest_message(action),
            digest_function=int(self._function),  # type: ignore[arg-type]  # the same numbers
            skip_cache_lookup=skip_cache,
        )
        response = await self._execute(request, streams.report)
        # Also when it failed: what it wrote until then says why.
        await self._copy(response.result.stdout_raw, response.result.stdout_digest, streams.stdout)
        await self._copy(response.result.stderr_raw, response.result.stderr_digest, streams.stderr)
        if response.status.code != code_pb2.OK:
            raise error_of_status(response.status)
        files = await fetch_outputs(self._store, response.result, self._function, into)
        worker = response.result.execution_metadata.worker or "a worker that gave no name"
        where = "from the cache, run" if response.cached_result else "run"
        streams.report(f"exit code {response.result.exit_code}, output files: {files}; {where} by {worker}")
        return Outcome(response.result.exit_code, not_produced(wish.output_paths, response.result))

    async def _execute(self, request: pb.ExecuteRequest, report: Callable[[str], None]) -> pb.ExecuteResponse:
        """Return the response; cancel the operation when this task is."""
        operation = ""
        stage = 0

        def on_state(name: str, metadata: pb.ExecuteOperationMetadata) -> None:
            nonlocal operation, stage
            operation = name
            if metadata.stage != stage and metadata.stage in _STAGES:
                report(_STAGES[metadata.stage])
            stage = metadata.stage

        try:
            return await Follower(self._channel, metadata=self._metadata).execute(request, on_state)
        except asyncio.CancelledError:
            if operation:
                await self._cancel(operation)
            raise

    async def _cancel(self, operation: str) -> None:
        with suppress(GridwrightError):
            await OperationsClient(self._channel).cancel_operation(
                operations_pb2.CancelOperationRequest(name=operation), timeout=_CANCEL_SECONDS, metadata=self._metadata
            )

    async def _copy(self, raw: bytes, message: pb.Digest, to: BinaryIO) -> None:
        if raw or not message.hash:
            to.write(raw)
        else:
            digest = make_digest(self._function, message.hash, message.size_bytes, field="output stream")
            async for chunk in self._store.get(digest):
                to.write(chunk)
        to.flush()


def choose_function(capabilities: pb.ServerCapabilities) -> DigestFunction:
    """Return the digest function to use: SHA256 where the server has it, else its first that we know.

    Raises:
        Unimplemented: it has none of ours, or does not execute at all.
    """
    if not capabilities.execution_capabilities.exec_enabled:
        raise Unimplemented("this endpoint does not execute actions, or not for you")
    offered = list(capabilities.cache_capabilities.digest_functions)
    known = [function for function in DigestFunction if int(function) in offered]
    if not known:
        raise Unimplemented("this endpoint offers no digest function that is known here")
    return known[0]
