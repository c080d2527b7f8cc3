"""ActionResults that come in, from clients and from workers, are checked here."""

from __future__ import annotations

from collections.abc import Iterator

from gridwright.digest import Digest
from gridwright.errors import InvalidRequest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.digests import child_digest

_FIELD = "action_result"


def check_action_result(result: pb.ActionResult, action: Digest) -> None:
    """Check that the paths and digests in the *result* of *action* are such (checklist ACU-02, DIG-11, DIG-12).

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
