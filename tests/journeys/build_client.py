"""A client that behaves as Bazel does: asks what is missing, uploads that, executes, takes up what breaks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from google.rpc import code_pb2, error_details_pb2, status_pb2

from gridwright.blobs.remote import RemoteStore
from gridwright.blobs.store import read_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import GridwrightError
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.digests import digest_message
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.retrying_channel import RetryingChannel
from gridwright_cli.execute.action import Wish, describe
from gridwright_cli.execute.following import Follower

SHA256 = DigestFunction.SHA256
#: How often an action is tried again after its inputs were found to be missing.
_TRIES = 5


@dataclass(frozen=True)
class Action:
    """A command with its input files, by path without directories."""

    arguments: Sequence[str]
    inputs: Mapping[str, bytes] = field(default_factory=dict)
    outputs: Sequence[str] = ()
    timeout_seconds: float | None = None
    platform: Sequence[tuple[str, str]] = ()

    @property
    def root(self) -> pb.Directory:
        return pb.Directory(
            files=[
                pb.FileNode(name=name, digest=digest_message(SHA256.digest(data)))
                for name, data in sorted(self.inputs.items())
            ]
        )

    def documents(self) -> tuple[Digest, Mapping[Digest, bytes]]:
        """Return the digest of the Action, and every blob that the server must have."""
        root = self.root.SerializeToString(deterministic=True)
        path = {"PATH": "/usr/bin:/bin"}
        wish = Wish(self.arguments, self.outputs, path, self.platform, self.timeout_seconds)
        digest, documents = describe(wish, SHA256.digest(root))
        inputs = {SHA256.digest(data): data for data in (root, *self.inputs.values())}
        return digest, {**inputs, **documents}


class BuildClient:
    """One client's connection."""

    def __init__(self, channel: GrpcChannel, instance: str) -> None:
        self.channel = channel
        self.instance = instance
        self.store = RemoteStore(RetryingChannel(channel), instance)
        self.stages: list[int] = []

    async def upload(self, blobs: Mapping[Digest, bytes]) -> int:
        """Bring *blobs* there, as far as they are missing; return how many that were."""
        missing = await self.store.missing(blobs.keys())
        for error in (await self.store.put_many({digest: blobs[digest] for digest in missing})).values():
            if error is not None:
                raise error
        return len(missing)

    async def execute(self, action: Action, *, skip_cache: bool = False) -> pb.ExecuteResponse:
        """Return the response for *action*, whatever its status."""
        digest, blobs = action.documents()
        for tries_left in reversed(range(_TRIES)):
            await self.upload(blobs)
            response = await self.execute_digest(digest, skip_cache=skip_cache)
            if not (missing_subjects(response.status) and tries_left):
                return response
        raise AssertionError("unreachable")

    async def execute_digest(self, action: Digest, *, skip_cache: bool = False) -> pb.ExecuteResponse:
        """Return the response for an action by its digest, uploading nothing."""
        request = pb.ExecuteRequest(
            instance_name=self.instance, action_digest=digest_message(action), skip_cache_lookup=skip_cache
        )
        # As patient with a start as with an end: what is restarted takes its time on a busy machine.
        follower = Follower(self.channel, start_patience_seconds=60)
        return await follower.execute(request, lambda name, metadata: self.stages.append(metadata.stage))

    async def build(self, action: Action) -> dict[str, bytes]:
        """Run *action* and return its output files, each checked against its digest.

        Raises:
            BuildFailed: its status is not OK, or the command failed.
        """
        response = await self.execute(action)
        result = response.result
        if response.status.code != code_pb2.OK or result.exit_code:
            raise BuildFailed(response)
        outputs = {}
        for file in result.output_files:
            digest = Digest(SHA256, file.digest.hash, file.digest.size_bytes)
            outputs[file.path] = await self.read(digest)
        return outputs

    async def read(self, digest: Digest) -> bytes:
        """Return a blob, or fail if it is not the one that the digest names."""
        data = await read_blob(self.store, digest)
        assert SHA256.digest(data) == digest, f"corrupt: {digest}"
        return data

    async def stdout(self, result: pb.ActionResult) -> bytes:
        """Return what the command wrote to standard output."""
        return await self._stream(result.stdout_raw, result.stdout_digest)

    async def stderr(self, result: pb.ActionResult) -> bytes:
        """Return what the command wrote to standard error."""
        return await self._stream(result.stderr_raw, result.stderr_digest)

    async def _stream(self, raw: bytes, digest: pb.Digest) -> bytes:
        if raw or not digest.hash:
            return raw
        return await self.read(Digest(SHA256, digest.hash, digest.size_bytes))


class BuildFailed(GridwrightError):
    """The grid answered, and the answer is that the action failed."""

    def __init__(self, response: pb.ExecuteResponse) -> None:
        self.response = response
        super().__init__(
            f"status {response.status.code} {response.status.message!r}, exit code {response.result.exit_code}"
        )


def missing_subjects(status: status_pb2.Status) -> list[str]:
    """Return the subjects of the MISSING violations in *status* (checklist appendix A)."""
    subjects = []
    for detail in status.details:
        failure = error_details_pb2.PreconditionFailure()
        if status.code == code_pb2.FAILED_PRECONDITION and detail.Unpack(failure):
            subjects += [violation.subject for violation in failure.violations if violation.type == "MISSING"]
    return subjects


@asynccontextmanager
async def build_client(endpoint: str, instance: str = "main") -> AsyncIterator[BuildClient]:
    """Yield a client with a connection of its own."""
    # Channels of one process with equal options share a connection.
    async with GrpcChannel(endpoint, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield BuildClient(channel, instance)
