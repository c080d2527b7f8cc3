"""A CAS somewhere else, as a BlobStore."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Mapping, Set

from google.rpc import code_pb2

from gridwright.blobs.store import CHUNK_BYTES, BlobStore
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobNotFound, GridwrightError, InternalError, NotFound, Unavailable, Unimplemented
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ContentAddressableStorageClient
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from gridwright.protos.google.bytestream.bytestream_rpc import ByteStreamClient
from gridwright.wire.digests import digest_message
from gridwright.wire.limits import MAX_BATCH_BYTES
from gridwright.wire.resource_names import read_name, write_name
from gridwright.wire.rpc import Channel, Metadata
from gridwright.wire.statuses import error_of_status

#: A FindMissingBlobs of so many digests stays well below the message limit, also with 128-digit hashes.
_DIGESTS_PER_QUESTION = 10_000
#: What a blob costs in a batch beside its bytes: its digest, its status, and their tags.
_BLOB_OVERHEAD_BYTES = 256
_MAX_RESUMES = 8


class RemoteStore(BlobStore):
    """Keeps blobs in another CAS, over its gRPC protocol.

    It compares what it sends and receives with the sizes in the digests, as the protocol
    does, and so keeps blobs only, no other bytes under their digests. It hears of no
    removals.

    Small blobs travel in batches, larger ones as streams; a download that is cut resumes
    where it was. Wrap the channel in ``RetryingChannel`` to outlast a restart of the CAS.

    Args:
        channel: how the CAS is reached.
        instance: the instance name to use there.
        timeout_seconds: bound on each unary call, retries included.
        stream_timeout_seconds: bound on each upload or download of one blob.
        metadata: headers for every call, RequestMetadata say.
    """

    def __init__(
        self,
        channel: Channel,
        instance: str,
        *,
        timeout_seconds: float = 60.0,
        stream_timeout_seconds: float = 3600.0,
        metadata: Metadata = (),
    ) -> None:
        self._cas = ContentAddressableStorageClient(channel)
        self._bytestream = ByteStreamClient(channel)
        self._instance = instance
        self._timeout_seconds = timeout_seconds
        self._stream_timeout_seconds = stream_timeout_seconds
        self._metadata = metadata

    async def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        if offset < 0:
            raise Unimplemented("a CAS over gRPC reads no blob from its end")
        if limit == 0:
            return
        end = digest.size_bytes if limit is None else min(digest.size_bytes, offset + limit)
        resumes = 0
        while True:
            request = bs.ReadRequest(
                resource_name=read_name(self._instance, digest),
                read_offset=offset,
                read_limit=max(0, end - offset) if limit is not None else 0,
            )
            responses = self._bytestream.read(request, timeout=self._stream_timeout_seconds, metadata=self._metadata)
            try:
                async for response in responses:
                    data = response.data
                    del response
                    offset += len(data)
                    yield data
                    del data
                break
            except NotFound:
                raise BlobNotFound(digest) from None
            except Unavailable:
                if offset >= end:
                    return
                resumes += 1
                if resumes > _MAX_RESUMES:
                    raise
                await asyncio.sleep(min(2.0, 0.05 * 2**resumes))
        if offset < end:
            raise InternalError(f"the CAS ended the stream of blob {digest} at {offset} of {end} bytes")

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        name = write_name(self._instance, digest)
        answer = await self._bytestream.write(
            _write_requests(name, digest, chunks), timeout=self._stream_timeout_seconds, metadata=self._metadata
        )
        if answer.committed_size != digest.size_bytes:
            raise InternalError(f"the CAS committed {answer.committed_size} bytes of blob {digest}")

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        missing: set[Digest] = set()
        for function, group in _by_function(digests).items():
            for start in range(0, len(group), _DIGESTS_PER_QUESTION):
                request = pb.FindMissingBlobsRequest(
                    instance_name=self._instance,
                    blob_digests=map(digest_message, group[start : start + _DIGESTS_PER_QUESTION]),
                    digest_function=int(function),  # type: ignore[arg-type]  # the same numbers
                )
                answer = await self._cas.find_missing_blobs(
                    request, timeout=self._timeout_seconds, metadata=self._metadata
                )
                missing.update(Digest(function, one.hash, one.size_bytes) for one in answer.missing_blob_digests)
        return missing

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        found: dict[Digest, bytes | GridwrightError] = {}
        small = [digest for digest in digests if _fits(digest)]
        for digest in digests:
            if not _fits(digest):
                found[digest] = await self._get_whole(digest)
        for function, group in _by_function(small).items():
            for batch in _batches(group):
                found |= await self._read_batch(function, batch)
        return found

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        kept: dict[Digest, GridwrightError | None] = {}
        # Each is asked for when its turn comes: a mapping that reads files holds no more than a batch.
        for digest in blobs:
            if not _fits(digest):
                kept[digest] = await self._put_whole(digest, blobs[digest])
        for function, group in _by_function(filter(_fits, blobs)).items():
            for batch in _batches(group):
                kept |= await self._update_batch(function, {digest: blobs[digest] for digest in batch})
        return kept

    async def _get_whole(self, digest: Digest) -> bytes | GridwrightError:
        try:
            return b"".join([chunk async for chunk in self.get(digest)])
        except BlobNotFound as error:
            return error

    async def _put_whole(self, digest: Digest, blob: bytes) -> GridwrightError | None:
        try:
            await self.put(digest, _chunks_of(blob))
        except GridwrightError as error:
            return error
        return None

    async def _read_batch(self, function: DigestFunction, batch: list[Digest]) -> dict[Digest, bytes | GridwrightError]:
        request = pb.BatchReadBlobsRequest(
            instance_name=self._instance,
            digests=map(digest_message, batch),
            digest_function=int(function),  # type: ignore[arg-type]
        )
        answer = await self._cas.batch_read_blobs(request, timeout=self._timeout_seconds, metadata=self._metadata)
        found: dict[Digest, bytes | GridwrightError] = {}
        for response in answer.responses:
            digest = Digest(function, response.digest.hash, response.digest.size_bytes)
            match response.status.code:
                case code_pb2.OK:
                    found[digest] = response.data
                case code_pb2.NOT_FOUND:
                    found[digest] = BlobNotFound(digest)
                case _:
                    found[digest] = error_of_status(response.status)
        for digest in batch:
            found.setdefault(digest, InternalError(f"the CAS gave no answer for blob {digest}"))
        return found

    async def _update_batch(
        self, function: DigestFunction, batch: Mapping[Digest, bytes]
    ) -> dict[Digest, GridwrightError | None]:
        request = pb.BatchUpdateBlobsRequest(
            instance_name=self._instance,
            requests=[
                pb.BatchUpdateBlobsRequest.Request(digest=digest_message(digest), data=blob)
                for digest, blob in batch.items()
            ],
            digest_function=int(function),  # type: ignore[arg-type]
        )
        answer = await self._cas.batch_update_blobs(request, timeout=self._timeout_seconds, metadata=self._metadata)
        kept: dict[Digest, GridwrightError | None] = {}
        for response in answer.responses:
            digest = Digest(function, response.digest.hash, response.digest.size_bytes)
            kept[digest] = None if response.status.code == code_pb2.OK else error_of_status(response.status)
        for digest in batch:
            kept.setdefault(digest, InternalError(f"the CAS gave no answer for blob {digest}"))
        return kept


def _fits(digest: Digest) -> bool:
    return digest.size_bytes + _BLOB_OVERHEAD_BYTES <= MAX_BATCH_BYTES // 2


def _by_function(digests: Iterable[Digest]) -> Mapping[DigestFunction, list[Digest]]:
    groups: defaultdict[DigestFunction, list[Digest]] = defaultdict(list)
    for digest in digests:
        groups[digest.function].append(digest)
    return groups


def _batches(digests: list[Digest]) -> Iterable[list[Digest]]:
    batch: list[Digest] = []
    used_bytes = 0
    for digest in digests:
        cost_bytes = digest.size_bytes + _BLOB_OVERHEAD_BYTES
        if batch and used_bytes + cost_bytes > MAX_BATCH_BYTES:
            yield batch
            batch, used_bytes = [], 0
        batch.append(digest)
        used_bytes += cost_bytes
    if batch:
        yield batch


async def _chunks_of(blob: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(blob), CHUNK_BYTES):
        yield blob[start : start + CHUNK_BYTES]


async def _write_requests(name: str, digest: Digest, chunks: AsyncIterable[bytes]) -> AsyncIterator[bs.WriteRequest]:
    """Yield the messages of an upload; the last one finishes it.

    Each chunk waits until its source went on: a source that fails behind its last byte has
    refused the blob, and by then nothing may have been sent that finishes it.
    """
    offset = 0
    held = b""
    async for chunk in chunks:
        if not chunk:
            continue
        if held:
            yield bs.WriteRequest(resource_name=name if offset == 0 else "", write_offset=offset, data=held)
            offset += len(held)
        held = chunk
    is_whole = offset + len(held) >= digest.size_bytes
    if held or is_whole:
        yield bs.WriteRequest(
            resource_name=name if offset == 0 else "", write_offset=offset, data=held, finish_write=is_whole
        )
