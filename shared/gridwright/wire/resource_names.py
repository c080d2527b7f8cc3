"""ByteStream resource names: which blob, in which instance, how compressed (checklist BSN)."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

from gridwright.digest import Digest, DigestFunction
from gridwright.errors import InvalidDigest, InvalidResourceName
from gridwright.instances import Instance, Instances
from gridwright.wire.digests import digest_function, make_digest

#: The compressors whose names may stand in a resource name, as REAPI spells them.
COMPRESSORS = frozenset({"zstd", "deflate", "brotli"})
#: What ``BlobName.compressor`` is where there is none.
IDENTITY = "identity"
#: Functions whose name must, or may, stand in a resource name before the hash.
_FUNCTION_SEGMENTS = {function.name.lower(): function for function in DigestFunction}


@dataclass(frozen=True, slots=True)
class BlobName:
    """A parsed resource name of a blob to read, or, with an upload id, of one to write."""

    instance: Instance
    digest: Digest
    #: "identity", "zstd", "deflate" or "brotli": how the bytes on the wire are compressed.
    compressor: str = IDENTITY
    #: The client's id of this upload; None in the name of a read.
    upload_id: str | None = None


def parse_read_name(name: str, instances: Instances) -> BlobName:
    """Parse ``[instance/](blobs|compressed-blobs/<compressor>)/[function/]hash/size[/anything]``.

    The grammar ends with the size, but old clients add a file name (checklist BSN-10).

    Raises:
        InvalidResourceName: it is no such name.
        UnknownInstance: the instance is not served here.
    """
    segments = name.split("/")
    start = _first(segments, "blobs", "compressed-blobs")
    if start is None:
        raise InvalidResourceName(name, "want [INSTANCE/]blobs/HASH/SIZE or [INSTANCE/]compressed-blobs/zstd/HASH/SIZE")
    blob, _metadata = _parse_blob(name, segments[:start], segments[start:], instances)
    return blob


def parse_write_name(name: str, instances: Instances) -> BlobName:
    """Parse ``[instance/]uploads/<uuid>/(blobs|compressed-blobs/<compressor>)/[function/]hash/size[/anything]``.

    Raises:
        InvalidResourceName: it is no such name.
        UnknownInstance: the instance is not served here.
    """
    segments = name.split("/")
    start = _first(segments, "uploads")
    if start is None or len(segments) < start + 3 or segments[start + 2] not in ("blobs", "compressed-blobs"):
        raise InvalidResourceName(name, "want [INSTANCE/]uploads/UUID/blobs/HASH/SIZE")
    upload_id = segments[start + 1]
    if not upload_id or len(upload_id) > 200:
        raise InvalidResourceName(name, "the upload id must have 1 to 200 characters")
    blob, _metadata = _parse_blob(name, segments[:start], segments[start + 2 :], instances)
    return BlobName(blob.instance, blob.digest, blob.compressor, upload_id)


def read_name(instance: str, digest: Digest) -> str:
    """Return the resource name to read *digest* by."""
    return f"{_prefix(instance)}blobs/{digest}"


def write_name(instance: str, digest: Digest) -> str:
    """Return a new resource name to write *digest* by."""
    return f"{_prefix(instance)}uploads/{uuid4()}/blobs/{digest}"


def _prefix(instance: str) -> str:
    return f"{instance}/" if instance else ""


def _first(segments: list[str], *keywords: str) -> int | None:
    return next((index for index, segment in enumerate(segments) if segment in keywords), None)


def _parse_blob(
    name: str, instance_segments: list[str], segments: list[str], instances: Instances
) -> tuple[BlobName, list[str]]:
    """Parse from ``blobs`` or ``compressed-blobs`` on; return the blob and the segments after the size."""
    if instance_segments and not all(instance_segments):
        raise InvalidResourceName(name, "empty segment in the instance name")
    instance = instances["/".join(instance_segments)]
    compressor = IDENTITY
    rest = segments[1:]
    if segments[0] == "compressed-blobs":
        if not rest or rest[0] not in COMPRESSORS:
            raise InvalidResourceName(name, f"a compressor ({', '.join(sorted(COMPRESSORS))}) must follow")
        compressor, rest = rest[0], rest[1:]
    named = _FUNCTION_SEGMENTS.get(rest[0]) if rest else None
    if named is not None:
        rest = rest[1:]
    if len(rest) < 2:
        raise InvalidResourceName(name, "want HASH/SIZE at the end")
    hash_, size = rest[0], rest[1]
    # int() would accept "+5", " 5" and "5_0" as well.
    if not (size.isascii() and size.isdecimal()) or len(size) > 19:
        raise InvalidResourceName(name, f"size {size[:40]!r} is not a decimal number")
    try:
        function = digest_function(named or 0, len(hash_), instance)
        digest = make_digest(function, hash_, int(size))
    except InvalidDigest as error:
        raise InvalidResourceName(name, str(error)) from None
    return BlobName(instance, digest, compressor), rest[2:]
