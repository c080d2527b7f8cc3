"""ActionCache over the wire: requests checked, results looked up and kept."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import DecodeError

from gridwright.auth.identity import Role
from gridwright.digest import Digest
from gridwright.errors import ActionResultNotFound, InvalidRequest
from gridwright.instances import Instances
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ActionCache
from gridwright.wire.call import Call
from gridwright.wire.digests import child_digest, read_digest
from gridwright_actioncache.results.store import ResultStore

_FIELD = "action_result"


class ActionCacheServicer(ActionCache):
    """Answers with the results in a store (checklist ACG, ACU)."""

    def __init__(self, instances: Instances, results: ResultStore) -> None:
        self._instances = instances
        self._results = results

    async def get_action_result(self, request: pb.GetActionResultRequest, call: Call) -> pb.ActionResult:
        instance = self._instances[request.instance_name]
        call.identity.require(Role.READER)
        digest = read_digest(request.action_digest, instance, request.digest_function, field="action_digest")
        found = await self._results.get_many(instance.name, [digest])
        if digest not in found:
            raise ActionResultNotFound(digest)
        try:
            return _with_metadata(pb.ActionResult.FromString(found[digest]))
        except DecodeError:
            # Not even its client would know what to do with it; built again, it is replaced.
            raise ActionResultNotFound(digest) from None

    async def update_action_result(self, request: pb.UpdateActionResultRequest, call: Call) -> pb.ActionResult:
        instance = self._instances[request.instance_name]
        call.identity.require(Role.WRITER)
        digest = read_digest(request.action_digest, instance, request.digest_function, field="action_digest")
        if not request.HasField("action_result"):
            raise InvalidRequest("action_result is required and was not sent", field=_FIELD)
        _check(request.action_result, digest)
        await self._results.put(instance.name, digest, request.action_result.SerializeToString())
        return _with_metadata(request.action_result)


def _with_metadata(result: pb.ActionResult) -> pb.ActionResult:
    """Make sure that *result* has execution_metadata, without which Buck2 fails (checklist ACG-12, ACG-13)."""
    if not result.HasField("execution_metadata"):
        result.execution_metadata.SetInParent()
    return result


def _check(result: pb.ActionResult, action: Digest) -> None:
    """Check what a client wants to have kept (checklist ACU-02).

    Raises:
        InvalidRequest: a path is absolute, or a digest is none, naming its field.
    """
    for field, path in _paths(result):
        if path.startswith("/"):
            raise InvalidRequest(f"{field}: output path {path[:200]!r} is absolute", field=field)
    for index, file in enumerate(result.output_files):
        child_digest(file.digest, action, field=f"{_FIELD}.output_files[{index}].digest")
    for index, directory in enumerate(result.output_directories):
        field = f"{_FIELD}.output_directories[{index}]"
        if directory.HasField("root_directory_digest"):
            child_digest(directory.root_directory_digest, action, field=f"{field}.root_directory_digest")
        if directory.HasField("tree_digest") or not directory.HasField("root_directory_digest"):
            child_digest(directory.tree_digest, action, field=f"{field}.tree_digest")
    # Some clients send these two without a hash where there was no output.
    for name, digest in (("stdout_digest", result.stdout_digest), ("stderr_digest", result.stderr_digest)):
        if digest.hash or digest.size_bytes:
            child_digest(digest, action, field=f"{_FIELD}.{name}")


def _paths(result: pb.ActionResult) -> Iterator[tuple[str, str]]:
    for name in (
        "output_files",
        "output_directories",
        "output_symlinks",
        "output_file_symlinks",
        "output_directory_symlinks",
    ):
        for index, output in enumerate(getattr(result, name)):
            yield f"{_FIELD}.{name}[{index}].path", output.path
