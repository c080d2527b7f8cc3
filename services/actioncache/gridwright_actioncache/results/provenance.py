"""Where a result came from, kept in front of the result."""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.gridwright.actioncache.v1 import stored_result_pb2 as documents

#: What a document begins with when its provenance is known: the tag of the field, of the type that has a length.
_TAG = documents.StoredResult(provenance=documents.Provenance()).SerializeToString()[:-1]
_MAX_LENGTH_BYTES = 5
#: Encoded metadata that says nothing; in front of a result it changes nothing.
_NO_METADATA = pb.ActionResult(execution_metadata=pb.ExecutedActionMetadata()).SerializeToString()


class Provenance(NamedTuple):
    """Who wrote a result, when, and which worker made it: what it takes to revoke what one of them has spoilt."""

    #: The caller, as authentication knew it.
    subject: str
    #: By what right it wrote: "scheduler", or the name of a role.
    role: str
    #: Unix seconds.
    written_at: float
    #: What the result's metadata calls the worker; "" where it does not say.
    worker: str

    @property
    def message(self) -> documents.Provenance:
        """The same as a message."""
        written_at = Timestamp()
        written_at.FromMicroseconds(round(self.written_at * 1e6))
        return documents.Provenance(subject=self.subject, role=self.role, written_at=written_at, worker=self.worker)

    @classmethod
    def from_message(cls, message: documents.Provenance) -> Provenance:
        """Return what *message* says."""
        return cls(message.subject, message.role, unix_seconds(message.written_at), message.worker)


def with_provenance(result: bytes, provenance: Provenance) -> bytes:
    """Return the document that is stored for *result*."""
    return documents.StoredResult(provenance=provenance.message).SerializeToString() + result


def of_unknown_origin(result: bytes) -> bytes:
    """Return the document of a *result* that another cache gave, which may begin with what looks like provenance."""
    return _NO_METADATA + result if result.startswith(_TAG) else result


def split_document(document: bytes) -> tuple[bytes, Provenance | None]:
    """Return the result in a stored *document*, byte for byte as it came, and where it came from.

    A document without provenance, or with one that cannot be read, is the result alone.
    """
    start, end = _front(document)
    if not end:
        return document, None
    try:
        message = documents.Provenance.FromString(document[start:end])
    except DecodeError:
        return document, None
    return document[end:], Provenance.from_message(message)


def result_in(document: bytes) -> bytes:
    """Return the result in a stored *document* without reading where it came from, which takes longer."""
    return document[_front(document)[1] :]


def _front(document: bytes) -> tuple[int, int]:
    """Return where the provenance in *document* begins and ends; zeros if there is none."""
    if not document.startswith(_TAG):
        return 0, 0
    length, start = 0, len(_TAG)
    for shift in range(_MAX_LENGTH_BYTES):
        if start >= len(document):
            return 0, 0
        byte = document[start]
        length |= (byte & 0x7F) << 7 * shift
        start += 1
        if byte < 0x80:
            break
    end = start + length
    return (start, end) if end <= len(document) else (0, 0)


def provenance_of(document: bytes) -> Provenance | None:
    """Return where the result in *document* came from, by its own metadata if nothing else says so.

    None: neither says anything, or the metadata is none.
    """
    result, provenance = split_document(document)
    if provenance is not None:
        return provenance
    try:
        metadata = pb.ActionResult.FromString(result).execution_metadata
    except DecodeError:
        return None
    completed_at = completed_at_of(metadata)
    if not metadata.worker and completed_at is None:
        return None
    return Provenance("", "", completed_at or 0.0, metadata.worker)


def completed_at_of(metadata: pb.ExecutedActionMetadata) -> float | None:
    """Return when the worker, or else the action, had completed, in Unix seconds, if *metadata* says so."""
    for field in ("worker_completed_timestamp", "execution_completed_timestamp"):
        if metadata.HasField(field):
            return unix_seconds(getattr(metadata, field))
    return None


def unix_seconds(timestamp: Timestamp) -> float:
    """Return the moment, also of a message that names none that a calendar has: anybody may have written it."""
    return timestamp.seconds + timestamp.nanos / 1e9
