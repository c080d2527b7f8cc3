"""The documents that make an action: fetched, parsed, and checked before anything relies on them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobNotFound, GridwrightError, InternalError, InvalidDigest, InvalidRequest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb

#: A document is held in memory as a whole; a Directory of 100,000 files has about 10 MB.
MAX_DOCUMENT_BYTES = 64 * 1024 * 1024

M = TypeVar("M", bound=Message)


async def fetch_documents(store: BlobStore, digests: Collection[Digest]) -> dict[Digest, bytes | BlobNotFound]:
    """Return the bytes of documents, checked against their digests, or that they are missing.

    Raises:
        InvalidRequest: one is larger than any sensible document.
        InternalError: the CAS sent other bytes than those asked for.
    """
    for digest in digests:
        if digest.size_bytes > MAX_DOCUMENT_BYTES:
            raise InvalidRequest(f"document {digest} is larger than {MAX_DOCUMENT_BYTES} bytes")
    documents: dict[Digest, bytes | BlobNotFound] = {one: b"" for one in digests if one == one.function.empty}
    wanted = [digest for digest in digests if digest not in documents]
    for digest, found in (await store.get_many(wanted) if wanted else {}).items():
        if isinstance(found, GridwrightError):
            if not isinstance(found, BlobNotFound):
                raise found
        elif digest.function.digest(found) != digest:
            raise InternalError(f"the CAS sent other bytes than those of document {digest}")
        documents[digest] = found
    return documents


def parse(kind: type[M], document: bytes, digest: Digest) -> M:
    """Return *document* as a message (checklist ACT-03, DIR-10).

    Raises:
        InvalidRequest: it is none of this kind.
    """
    try:
        return kind.FromString(document)
    except DecodeError:
        raise InvalidRequest(f"blob {digest} is not a {kind.__name__}") from None


def digest_in(message: pb.Digest, function: DigestFunction, field: str) -> Digest:
    """Return the Digest that a field of a document holds; all digests of an action are of one function (DIG-11).

    Raises:
        InvalidDigest: it holds none.
    """
    try:
        return Digest.checked(function, message.hash, message.size_bytes)
    except ValueError as error:
        raise InvalidDigest(f"{field} is not a {function.name} digest: {error}") from None


def digest_message(digest: Digest) -> pb.Digest:
    """Return the message that says *digest*."""
    return pb.Digest(hash=digest.hash, size_bytes=digest.size_bytes)
