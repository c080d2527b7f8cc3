"""Contents that travel inside a result, so that a client need not fetch them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import GridwrightError
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb

#: What contents cost beside their bytes: a tag and a length, of the field and of the messages around it.
_OVERHEAD_BYTES = 32


class Wanted(NamedTuple):
    """What a client would like to have inside the result."""

    stdout: bool = False
    stderr: bool = False
    #: Paths of output files.
    files: Collection[str] = ()


class _Candidate(NamedTuple):
    """Contents that could travel inside."""

    holder: pb.ActionResult | pb.OutputFile
    #: The field of *holder* that takes them.
    field: str
    digest: Digest


async def bring_inside(
    result: pb.ActionResult, wanted: Wanted, blobs: BlobStore, function: DigestFunction, *, max_bytes: int
) -> None:
    """Put what is *wanted* into *result*, as long as it has at most *max_bytes* then; take out what is not.

    The digests stay in any case. A wish is a hint (checklist ACG-06 to ACG-10): what is too
    large, not there, or cannot be read now, the client fetches itself.
    """
    _drop_unwanted(result, wanted)
    room_bytes = max_bytes - result.ByteSize()
    if room_bytes < 0:
        # Kept before contents went to the CAS, or by another cache: there, a client finds them as well.
        _drop_unwanted(result, Wanted())
        room_bytes = max_bytes - result.ByteSize()
    chosen = []
    for candidate in _candidates(result, wanted, function):
        cost_bytes = candidate.digest.size_bytes + _OVERHEAD_BYTES
        if cost_bytes <= room_bytes:
            room_bytes -= cost_bytes
            chosen.append(candidate)
    if not chosen:
        return
    try:
        found = await blobs.get_many({candidate.digest for candidate in chosen})
    except GridwrightError:
        return
    for candidate in chosen:
        contents = found.get(candidate.digest)
        if isinstance(contents, bytes):
            setattr(candidate.holder, candidate.field, contents)


def _drop_unwanted(result: pb.ActionResult, wanted: Wanted) -> None:
    # Contents without a digest, which an earlier version kept as they came, are nowhere else.
    if not wanted.stdout and result.stdout_digest.hash:
        result.ClearField("stdout_raw")
    if not wanted.stderr and result.stderr_digest.hash:
        result.ClearField("stderr_raw")
    for file in result.output_files:
        if file.contents and file.path not in wanted.files:
            file.ClearField("contents")


def _candidates(result: pb.ActionResult, wanted: Wanted, function: DigestFunction) -> Iterator[_Candidate]:
    if wanted.stdout and not result.stdout_raw:
        yield from _candidate(result, "stdout_raw", result.stdout_digest, function)
    if wanted.stderr and not result.stderr_raw:
        yield from _candidate(result, "stderr_raw", result.stderr_digest, function)
    if wanted.files:
        paths = frozenset(wanted.files)
        for file in result.output_files:
            if file.path in paths and not file.contents:
                yield from _candidate(file, "contents", file.digest, function)


def _candidate(
    holder: pb.ActionResult | pb.OutputFile, field: str, digest: pb.Digest, function: DigestFunction
) -> Iterator[_Candidate]:
    # Nothing stands for the contents of an empty file (ACG-10), nor for a stream that there was not.
    if digest.size_bytes > 0:
        yield _Candidate(holder, field, Digest(function, digest.hash, digest.size_bytes))
