"""The documents that make an action: fetched, parsed, and checked before anything relies on them."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobNotFound, GridwrightError, InternalError, InvalidDigest, InvalidRequest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb

#: A document is held in memory as a whole; a Directory of 100,000 files has about 10 MB.
MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
_HEX = "0123456789abcdef"
#: The node properties that outputs can be asked for (checklist ACT-20, NOD-05).
OUTPUT_NODE_PROPERTIES = frozenset({"mtime", "unix_mode"})

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
    if len(message.hash) != function.hash_length or message.hash.strip(_HEX) or message.size_bytes < 0:
        raise InvalidDigest(f"{field} is not a {function.name} digest: {message.hash!r}/{message.size_bytes}")
    return Digest(function, message.hash, message.size_bytes)


def digest_message(digest: Digest) -> pb.Digest:
    """Return the message that says *digest*."""
    return pb.Digest(hash=digest.hash, size_bytes=digest.size_bytes)


def check_command(command: pb.Command) -> None:
    """Raise InvalidRequest unless *command* can be run (checklist ACT-04, 10, 20, 24)."""
    if not command.arguments:
        raise InvalidRequest("the Command has no arguments", field="arguments")
    for field, texts in _texts(command):
        if any("\0" in text for text in texts):
            raise InvalidRequest(f"the Command's {field} hold a NUL", field=field)
    if not command.arguments[0]:
        raise InvalidRequest("the Command's first argument, the program, is empty", field="arguments")
    for variable in command.environment_variables:
        if not variable.name or "=" in variable.name:
            raise InvalidRequest(f"{variable.name!r} cannot name a variable", field="environment_variables")
    inside(command.working_directory, "", "working_directory")
    if unknown := set(command.output_node_properties) - OUTPUT_NODE_PROPERTIES:
        known = ", ".join(sorted(OUTPUT_NODE_PROPERTIES))
        raise InvalidRequest(
            f"node property {min(unknown)!r} is not supported; supported are {known}",
            field="output_node_properties",
        )


def inside(path: str, start: str, field: str) -> str:
    """Return *path*, given from the directory *start*, from the input root and without dots; "" is the root itself.

    Raises:
        InvalidRequest: it is absolute, ends in a slash, or leaves the input root (checklist ACT-10 to ACT-12).
    """
    if path.startswith("/") or path.endswith("/"):
        raise InvalidRequest(f"{path!r} begins or ends with '/'; a path from the input root is wanted", field=field)
    normal = posixpath.normpath(posixpath.join(start, path)) if path or start else "."
    if normal == ".." or normal.startswith("../"):
        raise InvalidRequest(f"{path!r} leaves the input root", field=field)
    return "" if normal == "." else normal


def _texts(command: pb.Command) -> Iterable[tuple[str, Iterable[str]]]:
    yield "arguments", command.arguments
    yield "environment_variables", (f"{one.name}{one.value}" for one in command.environment_variables)
    yield "working_directory", (command.working_directory,)
    yield "output_paths", (*command.output_paths, *command.output_files, *command.output_directories)
