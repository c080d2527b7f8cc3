"""ContentAddressableStorage: small blobs in bulk, and directory trees."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TypeAlias

from gridwright.auth.identity import Role
from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import DigestMismatch, GridwrightError, InvalidRequest, Unimplemented
from gridwright.instances import Instance, Instances
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ContentAddressableStorage
from gridwright.wire.call import Call
from gridwright.wire.digests import child_digest, make_digest, read_digest, read_digests, read_sound_digests
from gridwright.wire.limits import MAX_BATCH_BYTES
from gridwright.wire.statuses import status_message
from gridwright_cas.servicers.tree_pages import tree_pages
from gridwright_cas.stores.trees import walk_tree

Entry: TypeAlias = pb.BatchUpdateBlobsRequest.Request
#: The blobs of a batch that can be kept, and for each of its entries the digest, or what is wrong with it.
Readable: TypeAlias = tuple[dict[Digest, bytes], Sequence[Digest | GridwrightError]]


class CasServicer(ContentAddressableStorage):
    """Answers for the stores of all instances.

    Args:
        stores: the store of each storage domain.
    """

    def __init__(self, instances: Instances, stores: Mapping[str, BlobStore]) -> None:
        self._instances = instances
        self._stores = stores

    async def find_missing_blobs(self, request: pb.FindMissingBlobsRequest, call: Call) -> pb.FindMissingBlobsResponse:
        instance = self._open(request.instance_name, call, Role.READER)
        messages = list(request.blob_digests)
        digests = read_digests(messages, instance, request.digest_function, field="blob_digests")
        # Each once, in the order of the question.
        asked = dict(zip(digests, messages, strict=True))
        missing = await self._stores[instance.storage].missing(asked.keys())
        answer = [message for digest, message in asked.items() if digest in missing] if missing else []
        return pb.FindMissingBlobsResponse(missing_blob_digests=answer)

    async def batch_update_blobs(self, request: pb.BatchUpdateBlobsRequest, call: Call) -> pb.BatchUpdateBlobsResponse:
        instance = self._open(request.instance_name, call, Role.CAS_WRITER)
        entries = list(request.requests)
        _refuse_too_much(sum([len(entry.data) for entry in entries]), "requests")
        blobs, verdicts = _sound_entries(entries, instance, request.digest_function) or _readable_entries(
            entries, instance, request.digest_function
        )
        kept = await self._stores[instance.storage].put_many(blobs) if blobs else {}
        response = pb.BatchUpdateBlobsResponse()
        add = response.responses.add
        for entry, verdict in zip(entries, verdicts, strict=True):
            if isinstance(verdict, Digest):
                _begin(add(), verdict, kept[verdict])
            else:
                _begin(add(), entry.digest, verdict)
        return response

    async def batch_read_blobs(self, request: pb.BatchReadBlobsRequest, call: Call) -> pb.BatchReadBlobsResponse:
        instance = self._open(request.instance_name, call, Role.READER)
        messages = list(request.digests)
        digests = read_digests(messages, instance, request.digest_function)
        _refuse_too_much(sum([digest.size_bytes for digest in digests]), "digests")
        found = await self._stores[instance.storage].get_many(set(digests))
        response = pb.BatchReadBlobsResponse()
        add = response.responses.add
        for message, digest in zip(messages, digests, strict=True):
            blob = found[digest]
            if isinstance(blob, GridwrightError):
                _begin(add(), message, blob)
            else:
                one = add()
                _begin(one, message, None)
                one.data = blob
        return response

    async def get_tree(self, request: pb.GetTreeRequest, call: Call) -> AsyncIterator[pb.GetTreeResponse]:
        instance = self._open(request.instance_name, call, Role.READER)
        root = read_digest(request.root_digest, instance, request.digest_function, field="root_digest")
        found = walk_tree(self._stores[instance.storage], root, _child_directory)
        async for page in tree_pages(found, request.page_size, request.page_token):
            yield page

    async def split_blob(self, request: pb.SplitBlobRequest, call: Call) -> pb.SplitBlobResponse:
        self._open(request.instance_name, call, Role.READER)
        raise Unimplemented("SplitBlob is not offered; read the blob as a whole")

    async def splice_blob(self, request: pb.SpliceBlobRequest, call: Call) -> pb.SpliceBlobResponse:
        self._open(request.instance_name, call, Role.CAS_WRITER)
        raise Unimplemented("SpliceBlob is not offered; upload the blob as a whole")

    def _open(self, name: str, call: Call, role: Role) -> Instance:
        instance = self._instances[name]
        call.identity.require(role)
        return instance


def _child_directory(message: pb.Digest, parent: Digest) -> Digest:
    return child_digest(message, parent, field=f"Directory {parent}: directories.digest")


def _refuse_too_much(size_bytes: int, field: str) -> None:
    if size_bytes > MAX_BATCH_BYTES:
        raise InvalidRequest(
            f"{size_bytes} bytes are more than the {MAX_BATCH_BYTES} of a batch; use ByteStream for large blobs",
            field=field,
        )


def _begin(
    response: pb.BatchUpdateBlobsResponse.Response | pb.BatchReadBlobsResponse.Response,
    asked: pb.Digest | Digest,
    error: GridwrightError | None,
) -> None:
    """Say of which blob *response* is, and how it went.

    Field by field: to make messages and give them to another one's constructor, which copies
    them, takes two to three times as long.
    """
    digest = response.digest
    digest.hash = asked.hash
    digest.size_bytes = asked.size_bytes
    if error is None:
        response.status.SetInParent()  # it is there, and its code is OK
    else:
        response.status.CopyFrom(status_message(error))


def _sound_entries(entries: Sequence[Entry], instance: Instance, named: int) -> Readable | None:
    """Return what ``_readable_entries`` returns, if nothing is wrong with any entry and no digest comes twice."""
    if any([entry.compressor for entry in entries]):
        return None
    digests = read_sound_digests([entry.digest for entry in entries], instance, named)
    if digests is None:
        return None
    blobs = dict(zip(digests, [entry.data for entry in entries], strict=True))
    return (blobs, digests) if len(blobs) == len(digests) else None


def _readable_entries(entries: Sequence[Entry], instance: Instance, named: int) -> Readable:
    """Return the blobs to keep, and for each entry its blob's digest, or what is wrong with the entry."""
    blobs: dict[Digest, bytes] = {}
    verdicts: list[Digest | GridwrightError] = []
    function: DigestFunction | None = None
    for index, entry in enumerate(entries):
        field = f"requests[{index}]"
        try:
            if entry.compressor != pb.Compressor.IDENTITY:
                raise InvalidRequest(f"{field}: this server takes batches uncompressed only", field=field)
            if function is None:
                digest = read_digest(entry.digest, instance, named, field=f"{field}.digest")
                function = digest.function  # of all: one request, one function (checklist DIG-10)
            else:
                digest = make_digest(function, entry.digest.hash, entry.digest.size_bytes, field=f"{field}.digest")
            if blobs.setdefault(digest, entry.data) != entry.data:
                raise DigestMismatch(f"{field}: blob {digest} comes twice in this batch, with different bytes")
            verdicts.append(digest)
        except InvalidRequest as error:
            verdicts.append(error)
    return blobs, verdicts
