"""The entries of a BatchUpdateBlobs, read: which blobs they are, and what is wrong with the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from gridwright.digest import Digest, DigestFunction
from gridwright.errors import DigestMismatch, GridwrightError, InvalidRequest
from gridwright.instances import Instance
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.digests import make_digest, read_digest, read_sound_digests
from gridwright.wire.upload_rights import refuse_too_large
from gridwright_cas.servicers.compression.compressors import BY_NUMBER
from gridwright_cas.servicers.compression.unpacking import MAX_UNPACKED_BYTES
from gridwright_cas.servicers.compression.whole_blobs import decompressed_blob

Entry: TypeAlias = pb.BatchUpdateBlobsRequest.Request

#: To decompress less takes less time than to hand it to a thread.
_INLINE_BYTES = 32 * 1024


class ReadEntries(NamedTuple):
    """What is in a batch."""

    #: The blobs that can be kept; their hashes have not been looked at.
    blobs: dict[Digest, bytes]
    #: For each entry its blob's digest, or what is wrong with the entry.
    verdicts: Sequence[Digest | GridwrightError]


def unpacked_bytes(entries: Sequence[Entry]) -> int:
    """Return how much memory the compressed ones of *entries* need, as they themselves say."""
    sizes = [entry.digest.size_bytes for entry in entries if entry.compressor]
    return min(MAX_UNPACKED_BYTES, sum([size for size in sizes if 0 < size <= MAX_UNPACKED_BYTES]))


async def read_entries(entries: Sequence[Entry], instance: Instance, named: int) -> ReadEntries:
    """Return what is in *entries*; *named* is the request's ``digest_function``."""
    if not any([entry.compressor for entry in entries]):
        return _sound_entries(entries, instance, named) or _entries_one_by_one(entries, instance, named)
    if unpacked_bytes(entries) <= _INLINE_BYTES:
        return _entries_one_by_one(entries, instance, named)
    return await asyncio.to_thread(_entries_one_by_one, entries, instance, named)


def _sound_entries(entries: Sequence[Entry], instance: Instance, named: int) -> ReadEntries | None:
    """Return what is in uncompressed *entries*, if nothing is wrong with any and no digest comes twice."""
    digests = read_sound_digests([entry.digest for entry in entries], instance, named)
    if digests is None:
        return None
    blobs = dict(zip(digests, [entry.data for entry in entries], strict=True))
    if len(blobs) < len(digests) or max([len(data) for data in blobs.values()], default=0) > _limit(instance):
        return None
    return ReadEntries(blobs, digests)


def _limit(instance: Instance) -> float:
    return instance.max_blob_bytes or float("inf")


def _entries_one_by_one(entries: Sequence[Entry], instance: Instance, named: int) -> ReadEntries:
    blobs: dict[Digest, bytes] = {}
    verdicts: list[Digest | GridwrightError] = []
    function: DigestFunction | None = None
    room_bytes = MAX_UNPACKED_BYTES
    for index, entry in enumerate(entries):
        field = f"requests[{index}]"
        try:
            if function is None:
                digest = read_digest(entry.digest, instance, named, field=f"{field}.digest")
                function = digest.function  # of all: one request, one function (checklist DIG-10)
            else:
                digest = make_digest(function, entry.digest.hash, entry.digest.size_bytes, field=f"{field}.digest")
            refuse_too_large(digest, instance)
            data = entry.data
            if entry.compressor:
                data = _unpacked(entry, digest, room_bytes, field)
                room_bytes -= len(data)
            if blobs.setdefault(digest, data) != data:
                raise DigestMismatch(f"{field}: blob {digest} comes twice in this batch, with different bytes")
            verdicts.append(digest)
        except InvalidRequest as error:
            verdicts.append(_by_itself(error))
    return ReadEntries(blobs, verdicts)


def _by_itself(error: InvalidRequest) -> InvalidRequest:
    """Return *error* without the way that it came, on which hang the MiBs that were being decompressed."""
    error.__context__ = None
    return error.with_traceback(None)


def _unpacked(entry: Entry, digest: Digest, room_bytes: int, field: str) -> bytes:
    """Return the blob of a compressed entry.

    Raises:
        InvalidRequest: its compressor is not offered, it is damaged, or larger than *room_bytes*.
    """
    compressor = BY_NUMBER.get(entry.compressor)
    if compressor is None:
        known = ", ".join(pb.Compressor.Value.Name(number) for number in (pb.Compressor.IDENTITY, *BY_NUMBER))
        raise InvalidRequest(
            f"{field}: compressor {entry.compressor} is not offered; those for batches are {known}",
            field=f"{field}.compressor",
        )
    if digest.size_bytes > room_bytes:
        raise InvalidRequest(
            f"{field}: the blobs of a batch may have {MAX_UNPACKED_BYTES} bytes together when they are decompressed; "
            f"upload {digest} by ByteStream",
            field=f"{field}.digest.size_bytes",
        )
    return decompressed_blob(compressor, entry.data, digest)
