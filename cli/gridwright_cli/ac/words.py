"""A stored result, in words."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from gridwright.protos.gridwright.actioncache.v1 import operator_pb2 as pb
from gridwright.protos.gridwright.actioncache.v1.stored_result_pb2 import Provenance
from gridwright_cli.cas.plain import moment, printable


def provenance_line(answer: pb.ExplainResponse) -> str:
    """Return who wrote the result, when, and which worker had made it."""
    if not answer.HasField("provenance"):
        return "stored before it was noted by whom"
    provenance: Provenance = answer.provenance
    line = f"written by {printable(provenance.subject)} as {provenance.role}, {_moment(provenance.written_at)}"
    return f"{line}, made by worker {printable(provenance.worker)}" if provenance.worker else line


def result_lines(answer: pb.ExplainResponse) -> Iterator[str]:
    """Yield what the stored result says."""
    try:
        result = reapi.ActionResult.FromString(answer.action_result)
    except DecodeError:
        yield f"{len(answer.action_result)} bytes that are no ActionResult"
        return
    yield f"exit code {result.exit_code}"
    metadata = result.execution_metadata
    if metadata.worker:
        yield f"worker {printable(metadata.worker)}"
    if metadata.HasField("worker_completed_timestamp"):
        yield f"completed {_moment(metadata.worker_completed_timestamp)}"
    for file in result.output_files:
        yield f"file {printable(file.path)} {_digest(file.digest)}" + (" executable" if file.is_executable else "")
    for directory in result.output_directories:
        digest = directory.tree_digest if directory.tree_digest.hash else directory.root_directory_digest
        yield f"directory {printable(directory.path)} {_digest(digest)}"
    for link in (*result.output_symlinks, *result.output_file_symlinks, *result.output_directory_symlinks):
        yield f"link {printable(link.path)} to {printable(link.target)}"
    for name, digest in (("stdout", result.stdout_digest), ("stderr", result.stderr_digest)):
        if digest.size_bytes:
            yield f"{name} {_digest(digest)}"


def _digest(digest: reapi.Digest) -> str:
    return f"{printable(digest.hash)}/{digest.size_bytes}"


def _moment(timestamp: Timestamp) -> str:
    try:
        return moment(timestamp.ToSeconds())
    except ValueError:
        return "at no moment that there is"
