"""ByteStream resource names (group BSN)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

import grpc
import pytest

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from tests.conformance.compressors import compress, decompress
from tests.conformance.target import Target, chunks_of, digest_of, fresh, refused, write_requests

INVALID = grpc.StatusCode.INVALID_ARGUMENT
HEADER = "build.bazel.remote.execution.v2.resource-name"
#: Functions whose name does not stand in a resource name, and those whose name does.
UNNAMED = ["SHA256", "SHA1", "MD5", "SHA384", "SHA512"]
NAMED = ["BLAKE3"]
ABSENT = {"sha256tree": 64, "gitsha1": 40}

Make = Callable[[Target, pb.Digest], str]


def upload_prefix(target: Target) -> str:
    return f"{_prefix(target)}uploads/{uuid.uuid4()}"


def _prefix(target: Target) -> str:
    return f"{target.instance}/" if target.instance else ""


async def written(target: Target, name: str, data: bytes, sent: bytes | None = None) -> None:
    """Upload *data*, as *sent*, by *name*, and see that it is there."""
    digest = digest_of(data)
    await target.write(name, chunks_of(data if sent is None else sent, 400))
    assert await target.find_missing([digest]) == []


@pytest.mark.parametrize("tail", ["", "/src/foo bar/ü.cc"], ids=["n2", "n12"])
async def test_bsn_01_an_upload_is_named(target: Target, tail: str) -> None:
    data = fresh()
    digest = digest_of(data)
    await written(target, f"{upload_prefix(target)}/blobs/{digest.hash}/{digest.size_bytes}{tail}", data)


async def test_bsn_01_an_instance_name_may_be_empty(target: Target) -> None:
    """N1; an endpoint without such an instance says so."""
    data = fresh()
    digest = digest_of(data)
    nameless = await _nameless(target)
    await written(nameless, f"uploads/{uuid.uuid4()}/blobs/{digest.hash}/{digest.size_bytes}", data)


async def test_bsn_01_an_instance_name_may_hold_slashes(nested: Target) -> None:
    """N3."""
    data = fresh()
    digest = digest_of(data)
    await written(nested, f"{upload_prefix(nested)}/blobs/{digest.hash}/{digest.size_bytes}", data)


@pytest.mark.parametrize("compressor", ["zstd", "deflate", "brotli"])
@pytest.mark.parametrize("tail", ["", "/x"])
async def test_bsn_02_a_compressed_upload_is_named_by_the_blob(target: Target, compressor: str, tail: str) -> None:
    """N13 to N15."""
    _skip_unless_offered(target, compressor)
    data = fresh(1000)
    digest = digest_of(data)
    name = f"{upload_prefix(target)}/compressed-blobs/{compressor}/{digest.hash}/{digest.size_bytes}{tail}"
    await written(target, name, data, compress(compressor.upper(), data))


async def test_bsn_02_a_compressed_upload_may_be_of_a_named_function(target: Target) -> None:
    """N16."""
    _skip_unless_offered(target, "zstd")
    _skip_unless_used(target, "BLAKE3")
    data = fresh(1000)
    digest = digest_of(data, "BLAKE3")
    name = f"{upload_prefix(target)}/compressed-blobs/zstd/blake3/{digest.hash}/{digest.size_bytes}"
    await target.write(name, [compress("ZSTD", data)])
    assert await target.find_missing([digest], digest_function=pb.DigestFunction.BLAKE3) == []


async def test_bsn_03_a_blob_is_named_to_be_read(target: Target) -> None:
    """N17, N18."""
    data = fresh()
    digest = await target.put(data)
    assert await target.read(f"{_prefix(target)}blobs/{digest.hash}/{digest.size_bytes}") == data


async def test_bsn_03_a_compressed_blob_is_named_to_be_read(target: Target) -> None:
    """N20."""
    _skip_unless_offered(target, "zstd")
    data = fresh()
    digest = await target.put(data)
    name = f"{_prefix(target)}compressed-blobs/zstd/{digest.hash}/{digest.size_bytes}"
    assert decompress("ZSTD", await target.read(name)) == data


@pytest.mark.parametrize("compressor", ["", "zstd"])
async def test_bsn_03_a_blob_of_a_named_function_is_named_to_be_read(target: Target, compressor: str) -> None:
    """N19, N21."""
    _skip_unless_used(target, "BLAKE3")
    if compressor:
        _skip_unless_offered(target, compressor)
    data = fresh()
    digest = await target.put(data, "BLAKE3")
    name = target.resource(digest, compressor=compressor, function="BLAKE3")
    assert f"/blake3/{digest.hash}/" in name
    read = await target.read(name)
    assert (decompress(compressor.upper(), read) if compressor else read) == data


async def test_bsn_03_an_instance_name_may_be_empty_or_hold_slashes(nested: Target) -> None:
    data = fresh()
    digest = await nested.put(data)
    assert await nested.read(f"{nested.instance}/blobs/{digest.hash}/{digest.size_bytes}") == data
    nameless = await _nameless(nested)
    digest = await nameless.put(data)
    assert await nameless.read(f"blobs/{digest.hash}/{digest.size_bytes}") == data


@pytest.mark.parametrize("function", [*UNNAMED, *NAMED])
async def test_bsn_04_a_function_stands_before_the_hash_where_its_length_does_not_tell(
    target: Target, function: str
) -> None:
    """N4 to N9."""
    _skip_unless_used(target, function)
    data = fresh()
    digest = digest_of(data, function)
    segment = f"{function.lower()}/" if function in NAMED else ""
    tail = f"blobs/{segment}{digest.hash}/{digest.size_bytes}"
    await target.write(f"{upload_prefix(target)}/{tail}", [data])
    assert await target.read(f"{_prefix(target)}{tail}") == data


@pytest.mark.parametrize("function", ABSENT)
async def test_bsn_04_a_function_that_is_not_used_is_refused(target: Target, function: str) -> None:
    """N10, N11; where they are used, this says nothing."""
    if pb.DigestFunction.Value.Value(function.upper()) in target.capabilities.cache_capabilities.digest_functions:
        pytest.skip("not testable here: this endpoint uses the function")
    tail = f"blobs/{function}/{'a' * ABSENT[function]}/5"
    with refused(INVALID):
        await target.read(f"{_prefix(target)}{tail}")
    with refused(INVALID):
        await target.write(f"{upload_prefix(target)}/{tail}", [b"12345"])


async def test_bsn_05_a_function_that_need_not_stand_there_may(target: Target) -> None:
    data = fresh()
    digest = digest_of(data)
    tail = f"blobs/sha256/{digest.hash}/{digest.size_bytes}"
    await written(target, f"{upload_prefix(target)}/{tail}", data)
    assert await target.read(f"{_prefix(target)}{tail}") == data


async def test_bsn_05_a_function_that_cannot_be_meant_is_refused(target: Target) -> None:
    digest = await target.put(fresh())
    with refused(INVALID):
        await target.read(f"{_prefix(target)}blobs/sha1/{digest.hash}/{digest.size_bytes}")


@pytest.mark.parametrize("compressor", ["identity", "ZSTD", "Zstd", "lz4", "gzip", ""])
async def test_bsn_06_a_compressor_is_spelled_as_the_enum_is_in_lower_case(target: Target, compressor: str) -> None:
    """X10, X11."""
    data = fresh()
    digest = await target.put(data)
    tail = f"compressed-blobs/{compressor}/{digest.hash}/{digest.size_bytes}"
    with refused(INVALID):
        await target.read(f"{_prefix(target)}{tail}")
    other = digest_of(fresh())
    with refused(INVALID):
        await target.write(
            f"{upload_prefix(target)}/compressed-blobs/{compressor}/{other.hash}/{other.size_bytes}", [b"hello"]
        )


@pytest.mark.parametrize("compressor", ["zstd", "deflate", "brotli"])
async def test_bsn_07_a_compressor_is_offered_or_refused_never_ignored(target: Target, compressor: str) -> None:
    data = fresh(1000)
    digest = await target.put(data)
    name = target.resource(digest, compressor=compressor)
    other = fresh(1000)
    upload = target.upload_name(digest_of(other), compressor=compressor)
    if _is_offered(target, compressor):
        assert decompress(compressor.upper(), await target.read(name)) == data
        with refused(INVALID):
            await target.write(upload, [other])
        return
    with refused(INVALID):
        await target.read(name)
    with refused(INVALID):
        await target.write(upload, [compress(compressor.upper(), other)])


@pytest.mark.parametrize("tail", ["/foo/bar.cc", "/uploads/blobs", "/", "/blobs/x/y"])
async def test_bsn_08_what_follows_the_size_of_an_upload_is_ignored(target: Target, tail: str) -> None:
    data = fresh()
    digest = digest_of(data)
    await written(target, f"{target.upload_name(digest)}{tail}", data)


async def test_bsn_09_the_first_keyword_counts(target: Target) -> None:
    """N22."""
    data, other = fresh(), digest_of(fresh())
    digest = digest_of(data)
    inner = f"uploads/{uuid.uuid4()}/blobs/{other.hash}/{other.size_bytes}"
    await written(target, f"{target.upload_name(digest)}/{inner}", data)
    assert len(await target.find_missing([other])) == 1
    assert await target.read(f"{target.resource(digest)}/blobs/{other.hash}/{other.size_bytes}") == data


async def test_bsn_10_what_follows_the_size_of_a_read_is_ignored(target: Target) -> None:
    data = fresh()
    digest = await target.put(data)
    assert await target.read(f"{target.resource(digest)}/name.txt") == data


async def test_bsn_11_one_uuid_may_serve_several_uploads_at_once(target: Target) -> None:
    blobs = [fresh(3000) for _ in range(4)]
    same = str(uuid.uuid4())
    names = [target.upload_name(digest_of(data), uuid=same) for data in blobs]
    if _is_offered(target, "zstd"):
        # The same blob as the first, and yet another upload.
        names.append(target.upload_name(digest_of(blobs[0]), uuid=same, compressor="zstd"))
        blobs.append(blobs[0])
    uploads = {
        name: compress("ZSTD", data) if "compressed" in name else data for name, data in zip(names, blobs, strict=True)
    }
    await asyncio.gather(*(target.write(name, chunks_of(sent, 500)) for name, sent in uploads.items()))
    assert await target.find_missing([digest_of(data) for data in blobs]) == []


@pytest.mark.parametrize("upload_id", ["foo", "1", "{not a uuid}", "a" * 100])
async def test_bsn_12_any_segment_is_a_uuid(target: Target, upload_id: str) -> None:
    data = fresh()
    await written(target, target.upload_name(digest_of(data), uuid=upload_id), data)


HASH = "0123456789abcdef" * 4
MALFORMED = {
    "x1": "",
    "x2": f"blobs/{HASH}",
    "x3-negative": f"blobs/{HASH}/-1",
    "x3-fraction": f"blobs/{HASH}/1.0",
    "x3-hexadecimal": f"blobs/{HASH}/0x10",
    "x3-plus": f"blobs/{HASH}/+5",
    "x4": f"blobs/{HASH}/99999999999999999999",
    "x5": f"blobs/{HASH[:63]}/5",
    "x6": f"blobs/{HASH.upper()}/5",
    "x7": f"uploads/blobs/{HASH}/5",
    "x8": f"uploads/U/{HASH}/5",
    "x9": f"uploads/U/compressed-blobs/{HASH}/5",
    "x10": f"uploads/U/compressed-blobs/identity/{HASH}/5",
    "x11": f"uploads/U/compressed-blobs/ZSTD/{HASH}/5",
    "x12": f"blobs/unknownfn/{HASH}/5",
    "x13": f"blobs/blake3/{HASH[:40]}/5",
    "not-hexadecimal": f"blobs/{'g' * 64}/5",
    "nothing": "blobs",
}


@pytest.mark.parametrize("name", MALFORMED.values(), ids=MALFORMED)
async def test_bsn_13_a_malformed_name_is_refused(target: Target, name: str) -> None:
    name = f"{_prefix(target)}{name}" if name else name
    with refused(INVALID):
        await target.read(name)
    with refused(INVALID):
        await target.query(name)
    with refused(INVALID):
        await target.write(name, [b"12345"])
    if "blobs" in name and "uploads" not in name:
        upload = name.replace("blobs", f"uploads/{uuid.uuid4()}/blobs", 1)
        with refused(INVALID):
            await target.write(upload, [b"12345"])


@pytest.mark.parametrize("name", [f"//uploads/U/blobs/{HASH}/5", f"/blobs/{HASH}/5"], ids=["x14-upload", "x14-read"])
async def test_bsn_13_an_empty_segment_is_refused(target: Target, name: str) -> None:
    with refused(INVALID):
        if "uploads" in name:
            await target.write(name, [b"12345"])
        else:
            await target.read(name)


async def test_bsn_14_a_header_may_say_the_name(target: Target) -> None:
    data = fresh()
    digest = digest_of(data)
    name = target.upload_name(digest)
    await target.upload(write_requests(name, [data]), metadata=[(HEADER, name)])
    assert await _read(target, target.resource(digest), target.resource(digest)) == data


async def test_bsn_15_a_header_that_says_another_name_is_refused(target: Target) -> None:
    data = fresh()
    digest = await target.put(data)
    with refused(INVALID):
        await _read(target, target.resource(digest), target.resource(digest_of(fresh())))
    other = fresh()
    with refused(INVALID):
        await target.upload(
            write_requests(target.upload_name(digest_of(other)), [other]),
            metadata=[(HEADER, target.upload_name(digest_of(other)))],
        )
    assert len(await target.find_missing([digest_of(other)])) == 1


@pytest.mark.parametrize("name", ["logstreams/0123", "operations/x/streams/stdout"])
async def test_bsn_16_a_name_of_another_kind_is_not_taken_for_a_blob(target: Target, name: str) -> None:
    """A stream that is not there, or that is nobody's."""
    name = f"{_prefix(target)}{name}"
    with refused(INVALID, grpc.StatusCode.NOT_FOUND):
        await target.read(name)
    with refused(INVALID, grpc.StatusCode.NOT_FOUND):
        await target.write(name, [b"12345"])


async def _read(target: Target, name: str, header: str) -> bytes:
    answers = target.streamed(
        "ByteStream/Read", bs.ReadRequest(resource_name=name), bs.ReadResponse, metadata=[(HEADER, header)]
    )
    return b"".join([answer.data async for answer in answers])


async def _nameless(target: Target) -> Target:
    """Return the instance with the empty name; skip where there is none."""
    try:
        return await target.at("")
    except grpc.aio.AioRpcError:
        pytest.skip("not testable here: this endpoint has no instance with the empty name")


def _is_offered(target: Target, compressor: str) -> bool:
    number = pb.Compressor.Value.Value(compressor.upper())
    return number in target.capabilities.cache_capabilities.supported_compressors


def _skip_unless_offered(target: Target, compressor: str) -> None:
    if not _is_offered(target, compressor):
        pytest.skip(f"not testable here: this endpoint does not offer {compressor}")


def _skip_unless_used(target: Target, function: str) -> None:
    if pb.DigestFunction.Value.Value(function) not in target.capabilities.cache_capabilities.digest_functions:
        pytest.skip(f"not testable here: this endpoint does not use {function}")
