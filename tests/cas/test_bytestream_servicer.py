"""ByteStream on the wire; the letters and numbers are rows of the conformance checklist."""

from __future__ import annotations

import asyncio
import os
from uuid import uuid4

import grpc
import pytest
from google.rpc import error_details_pb2

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import CHUNK_BYTES, BlobStore, read_blob, write_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import Unavailable
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from gridwright.protos.google.bytestream.bytestream_rpc import READ
from gridwright.testing.broken_store import BrokenStore
from gridwright.wire.limits import MAX_BATCH_BYTES
from gridwright.wire.resource_names import read_name, write_name
from gridwright_cas.servicers.compression.compressors import BY_NAME
from tests.cas.wire import CasWire, detail, failure, write_requests

SHA256 = DigestFunction.SHA256
INVALID = grpc.StatusCode.INVALID_ARGUMENT
OUT_OF_RANGE = grpc.StatusCode.OUT_OF_RANGE
HEADER = "build.bazel.remote.execution.v2.resource-name"

Stores = dict[str, BlobStore]


async def kept(stores: Stores, data: bytes, instance: str = "main") -> Digest:
    digest = SHA256.digest(data)
    await write_blob(stores[instance], digest, data)
    return digest


def upload(data: bytes, size: int = CHUNK_BYTES, instance: str = "main") -> tuple[Digest, list[bs.WriteRequest]]:
    digest = SHA256.digest(data)
    return digest, write_requests(write_name(instance, digest), data, size)


@pytest.mark.parametrize("size", [1, CHUNK_BYTES, 4 * CHUNK_BYTES - 1, 4 * CHUNK_BYTES, 10 * CHUNK_BYTES + 3])
async def test_a_blob_is_written_and_read(cas: CasWire, size: int) -> None:
    """BSR-01, BSR-11, BSW-02."""
    data = os.urandom(size)
    digest, requests = upload(data)
    assert await cas.write(requests) == size
    messages = await cas.read(read_name("main", digest))
    assert b"".join(messages) == data
    assert max(map(len, messages)) <= 2 * CHUNK_BYTES


@pytest.mark.parametrize("function", list(DigestFunction))
async def test_every_digest_function_can_be_written_and_read(cas: CasWire, function: DigestFunction) -> None:
    """BSN-04."""
    data = os.urandom(1000)
    digest = function.digest(data)
    assert await cas.write(write_requests(write_name("a/b/c", digest), data, 300)) == 1000
    assert b"".join(await cas.read(read_name("a/b/c", digest))) == data


@pytest.mark.parametrize("offset", [0, 1, 500, 999, 1000])
@pytest.mark.parametrize("limit", [0, 1, 3, 10_000])
async def test_a_part_is_read(cas: CasWire, stores: Stores, offset: int, limit: int) -> None:
    """BSR-03, BSR-04, BSR-06."""
    data = os.urandom(1000)
    name = read_name("main", await kept(stores, data))
    part = b"".join(await cas.read(name, read_offset=offset, read_limit=limit))
    assert part == data[offset : offset + limit if limit else None]


async def test_a_blob_that_is_not_there_is_not_found(cas: CasWire) -> None:
    """BSR-02, DIG-02."""
    status = await failure(cas.read(read_name("main", SHA256.digest(b"?"))), grpc.StatusCode.NOT_FOUND)
    assert detail(status, error_details_pb2.ErrorInfo).reason == "BLOB_NOT_FOUND"


async def test_the_right_hash_with_another_size_is_not_found(cas: CasWire, stores: Stores) -> None:
    """DIG-02."""
    digest = await kept(stores, os.urandom(5))
    await failure(cas.read(read_name("main", digest._replace(size_bytes=6))), grpc.StatusCode.NOT_FOUND)


@pytest.mark.parametrize("offset", [-1, 101])
async def test_an_offset_outside_the_blob_is_out_of_range(cas: CasWire, stores: Stores, offset: int) -> None:
    """BSR-05."""
    name = read_name("main", await kept(stores, os.urandom(100)))
    await failure(cas.read(name, read_offset=offset), OUT_OF_RANGE)


async def test_a_negative_limit_is_refused(cas: CasWire, stores: Stores) -> None:
    """BSR-07."""
    name = read_name("main", await kept(stores, os.urandom(100)))
    await failure(cas.read(name, read_limit=-1), INVALID)


async def test_the_empty_blob_is_read_and_written(cas: CasWire) -> None:
    """BSR-10, BSW-17, LIF-01."""
    assert b"".join(await cas.read(read_name("main", SHA256.empty))) == b""
    assert await cas.write(write_requests(write_name("main", SHA256.empty), b"")) == 0
    assert await cas.query(write_name("main", SHA256.empty)) == (0, True)


async def test_a_store_that_does_not_answer_is_unavailable(cas: CasWire, stores: Stores) -> None:
    stores["main"] = BrokenStore(Unavailable("no answer"))
    digest, requests = upload(b"x")
    await failure(cas.read(read_name("main", digest)), grpc.StatusCode.UNAVAILABLE)
    await failure(cas.write(requests), grpc.StatusCode.UNAVAILABLE)
    await failure(cas.query(write_name("main", digest)), grpc.StatusCode.UNAVAILABLE)


@pytest.mark.parametrize("compressor", ["identity", "lz4", "ZSTD"])
async def test_a_compressor_that_is_not_offered_is_refused(cas: CasWire, compressor: str) -> None:
    """BSN-06, BSN-07."""
    digest, requests = upload(b"hello")
    requests[0].resource_name = f"main/uploads/{uuid4()}/compressed-blobs/{compressor}/{digest}"
    await failure(cas.write(requests), INVALID)
    await failure(cas.read(f"main/compressed-blobs/{compressor}/{digest}"), INVALID)
    await failure(cas.query(requests[0].resource_name), INVALID)


@pytest.mark.parametrize("compressor", sorted(BY_NAME))
@pytest.mark.parametrize("offset", [0, 1, 2 * CHUNK_BYTES])
async def test_a_blob_is_written_and_read_compressed(cas: CasWire, compressor: str, offset: int) -> None:
    """BSR-09, BSW-14."""
    data = os.urandom(CHUNK_BYTES) * 3
    digest = SHA256.digest(data)
    encoder, decoder = BY_NAME[compressor].encoder(), BY_NAME[compressor].decoder()
    sent = encoder.encode(data) + encoder.finish()
    assert await cas.write(write_requests(f"main/uploads/u/compressed-blobs/{compressor}/{digest}", sent)) == len(sent)
    read = b"".join(await cas.read(f"main/compressed-blobs/{compressor}/{digest}", read_offset=offset))
    assert b"".join(decoder.decode(read)) == data[offset:]
    await failure(cas.read(f"main/compressed-blobs/{compressor}/{digest}", read_limit=1), INVALID)


@pytest.mark.parametrize("compressor", sorted(BY_NAME))
async def test_a_decompression_bomb_is_refused_early(cas: CasWire, compressor: str) -> None:
    """CMP-07: what is beyond the size never comes into being."""
    encoder = BY_NAME[compressor].encoder()
    bomb = encoder.encode(bytes(64 * CHUNK_BYTES)) + encoder.finish()
    digest = SHA256.digest(b"0123456789")
    requests = write_requests(f"main/uploads/u/compressed-blobs/{compressor}/{digest}", bomb)
    assert "more than 10 bytes" in (await failure(cas.write(requests), INVALID)).message


async def test_a_client_that_compares_sizes_hears_the_size(cas: CasWire) -> None:
    """BSW-12, BSW-14: reclient and siso."""
    data = bytes(1000)
    name = f"main/uploads/u/compressed-blobs/zstd/{SHA256.digest(data)}"
    encoder = BY_NAME["zstd"].encoder()
    requests = write_requests(name, encoder.encode(data))
    async with grpc.aio.insecure_channel(cas.address, options=[("grpc.primary_user_agent", "grpc-go/1.60")]) as channel:
        go = CasWire(channel, cas.address)
        assert await go.write(requests) == 1000
        assert await go.write(requests) == 1000
    assert await cas.write(requests) == -1


@pytest.mark.parametrize(
    "name",
    ["", "main", "main/blobs", "blobs/xyz/5", "nope/blobs/" + "a" * 64 + "/5", "main/uploads/u/blobs/" + "a" * 64],
)
async def test_malformed_names_are_refused(cas: CasWire, name: str) -> None:
    """BSN-13, INS-04; the whole table is tests/shared/test_resource_names.py."""
    await failure(cas.read(name), INVALID)
    await failure(cas.query(name), INVALID)
    await failure(cas.write([bs.WriteRequest(resource_name=name, finish_write=True)]), INVALID)


async def test_a_name_to_write_by_cannot_be_read_nor_the_reverse(cas: CasWire, stores: Stores) -> None:
    """BSR-15, BSQ-05."""
    digest = await kept(stores, b"hello")
    await failure(cas.read(write_name("main", digest)), INVALID)
    await failure(cas.query(read_name("main", digest)), INVALID)
    await failure(cas.write(write_requests(read_name("main", digest), b"hello")), INVALID)


async def test_the_header_must_name_the_same_resource(cas: CasWire, stores: Stores) -> None:
    """BSN-14, BSN-15."""
    name = read_name("main", await kept(stores, b"hello"))
    assert await cas.read(name, [(HEADER, name)]) == [b"hello"]
    await failure(cas.read(name, [(HEADER, name + "1")]), INVALID)
    _, requests = upload(b"other")
    await failure(cas.write(requests, [(HEADER, name)]), INVALID)


async def test_callers_need_their_role(cas: CasWire, stores: Stores) -> None:
    """BSW-23."""
    nobody, reader = [("roles", "")], [("roles", "reader")]
    name = read_name("main", await kept(stores, b"hello"))
    await failure(cas.read(name, nobody), grpc.StatusCode.PERMISSION_DENIED)
    assert await cas.read(name, reader) == [b"hello"]
    digest, requests = upload(b"other")
    status = await failure(cas.write(requests, reader), grpc.StatusCode.PERMISSION_DENIED)
    assert "cas_writer" in status.message
    assert await stores["main"].missing({digest}) == {digest}


async def test_the_name_may_be_repeated_but_not_changed(cas: CasWire, stores: Stores) -> None:
    """BSW-01."""
    digest, requests = upload(os.urandom(300), 100)
    requests[1].resource_name = write_name("main", digest)
    await failure(cas.write(requests), INVALID)
    assert await stores["main"].missing({digest}) == {digest}
    for request in requests:
        request.resource_name = requests[0].resource_name
    assert await cas.write(requests) == 300


async def test_the_first_message_must_carry_the_name(cas: CasWire) -> None:
    """BSW-01."""
    _, requests = upload(os.urandom(300), 100)
    requests[0].resource_name = ""
    await failure(cas.write(requests), INVALID)


@pytest.mark.parametrize("offset", [99, 101, 0, -1])
async def test_gaps_and_overlaps_are_refused(cas: CasWire, stores: Stores, offset: int) -> None:
    """BSW-03."""
    digest, requests = upload(os.urandom(300), 100)
    requests[1].write_offset = offset
    status = await failure(cas.write(requests), INVALID)
    assert detail(status, error_details_pb2.BadRequest).field_violations[0].field == "write_offset"
    assert await stores["main"].missing({digest}) == {digest}


async def test_a_new_upload_begins_at_its_beginning(cas: CasWire) -> None:
    """BSW-04."""
    _, requests = upload(os.urandom(300), 100)
    requests[0].write_offset = 10
    await failure(cas.write(requests), INVALID)


async def test_an_upload_that_broke_off_begins_again_with_the_same_name(cas: CasWire, stores: Stores) -> None:
    """BSW-05, BSQ-01, FMB-10."""
    data = os.urandom(3 * CHUNK_BYTES)
    digest, requests = upload(data)
    broken = cas.open_write()
    await broken.write(requests[0])
    broken.cancel()
    assert await cas.query(requests[0].resource_name) == (0, False)
    assert await cas.write(requests) == len(data)
    assert await read_blob(stores["main"], digest) == data


async def test_a_message_after_finish_write_is_refused(cas: CasWire) -> None:
    """BSW-07."""
    _, requests = upload(os.urandom(300), 100)
    await failure(cas.write([*requests, bs.WriteRequest(write_offset=300)]), INVALID)


async def test_an_upload_that_stands_still_is_given_up(
    cas: CasWire, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridwright_cas.servicers.upload_messages._IDLE_SECONDS", 0.1)
    monkeypatch.setattr("gridwright_cas.servicers.upload_messages._PAUSE_SECONDS", 0.1)
    data = os.urandom(2 * CHUNK_BYTES)
    call = cas.open_write()
    await call.write(write_requests(write_name("main", SHA256.digest(data)), data)[0])
    await failure(call, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert await stores["main"].missing({SHA256.digest(data)})


async def test_an_upload_ended_without_finish_write_is_no_error_and_not_kept(cas: CasWire, stores: Stores) -> None:
    """BSW-08."""
    digest, requests = upload(os.urandom(300), 100)
    assert await cas.write(requests[:2]) == 0
    requests[-1].finish_write = False
    assert await cas.write(requests) == 0
    assert await stores["main"].missing({digest}) == {digest}
    assert await cas.query(requests[0].resource_name) == (0, False)


async def test_an_upload_without_any_message_is_refused(cas: CasWire) -> None:
    """BSW-09."""
    await failure(cas.write([]), INVALID)


@pytest.mark.parametrize("size", [10, 3 * CHUNK_BYTES])
async def test_other_bytes_are_refused_and_not_kept(cas: CasWire, stores: Stores, size: int) -> None:
    """BSW-10, DIG-20."""
    digest = SHA256.digest(os.urandom(size))
    name = write_name("main", digest)
    status = await failure(cas.write(write_requests(name, os.urandom(size))), INVALID)
    assert detail(status, error_details_pb2.ErrorInfo).reason == "DIGEST_MISMATCH"
    assert await stores["main"].missing({digest}) == {digest}
    assert await cas.query(name) == (0, False)


@pytest.mark.parametrize("size", [9, 11])
async def test_fewer_or_more_bytes_are_refused(cas: CasWire, stores: Stores, size: int) -> None:
    """BSW-11."""
    data = os.urandom(size)
    digest = SHA256.digest(data)._replace(size_bytes=10)
    await failure(cas.write(write_requests(write_name("main", digest), data, 4)), INVALID)
    assert await stores["main"].missing({digest}) == {digest}


async def test_too_many_bytes_are_refused_before_the_end(cas: CasWire) -> None:
    """BSW-11: as soon as known."""
    digest = SHA256.digest(b"0123456789")
    call = cas.open_write()
    await call.write(bs.WriteRequest(resource_name=write_name("main", digest), data=b"x" * 11))
    await failure(call, INVALID)


@pytest.mark.parametrize("size", [1000, 40 * CHUNK_BYTES])
async def test_an_upload_of_what_is_there_is_answered_early(cas: CasWire, stores: Stores, size: int) -> None:
    """BSW-12: after the first message, without an end."""
    data = os.urandom(size)
    digest = await kept(stores, data)
    call = cas.open_write()
    name = write_name("main", digest)
    await call.write(bs.WriteRequest(resource_name=name, data=data[:100]))
    assert (await call).committed_size == size
    assert await cas.query(name) == (size, True)


@pytest.mark.parametrize("size", [1000, 3 * CHUNK_BYTES, 40 * CHUNK_BYTES])
async def test_an_upload_of_what_is_there_may_go_on_to_its_end(cas: CasWire, stores: Stores, size: int) -> None:
    """BSW-12, BSW-13."""
    data = os.urandom(size)
    await kept(stores, data)
    _, requests = upload(data)
    assert await cas.write(requests) == size


async def test_empty_messages_are_no_harm(cas: CasWire) -> None:
    """BSW-16."""
    data = os.urandom(300)
    _, requests = upload(data, 100)
    requests[-1].finish_write = False
    requests[1:1] = [bs.WriteRequest(write_offset=100)]
    assert await cas.write([*requests, bs.WriteRequest(write_offset=300, finish_write=True)]) == 300


async def test_a_message_may_be_as_large_as_a_batch(cas: CasWire) -> None:
    """BSW-19."""
    _, requests = upload(os.urandom(MAX_BATCH_BYTES), MAX_BATCH_BYTES)
    assert await cas.write(requests) == MAX_BATCH_BYTES


async def test_a_blob_larger_than_the_store_is_refused_at_its_first_message(cas: CasWire, stores: Stores) -> None:
    """BSW-18: no such limit is advertised, so it is one of the store."""
    stores["main"] = MemoryStore(max_bytes=1000)
    call = cas.open_write()
    await call.write(bs.WriteRequest(resource_name=write_name("main", Digest(SHA256, "a" * 64, 1001)), data=b"x"))
    await failure(call, grpc.StatusCode.RESOURCE_EXHAUSTED)


async def test_concurrent_uploads_of_one_name_all_succeed(cas: CasWire, stores: Stores) -> None:
    """BSW-20, LIF-05."""
    data = os.urandom(3 * CHUNK_BYTES)
    digest, requests = upload(data, 2**16)
    assert set(await asyncio.gather(*(cas.write(requests) for _ in range(10)))) == {len(data)}
    assert await read_blob(stores["main"], digest) == data


async def test_one_upload_id_may_serve_several_blobs(cas: CasWire) -> None:
    """BSN-11."""
    blobs = [os.urandom(3000) for _ in range(5)]
    uploads = [write_requests(f"main/uploads/same/blobs/{SHA256.digest(data)}", data, 500) for data in blobs]
    assert await asyncio.gather(*(cas.write(requests) for requests in uploads)) == [3000] * 5


async def test_a_slow_upload_does_not_hold_up_others(cas: CasWire) -> None:
    """BSW-21."""
    slow = [cas.open_write() for _ in range(50)]
    for call in slow:
        digest, requests = upload(os.urandom(3000), 1000)
        await call.write(requests[0])
    digest, requests = upload(os.urandom(3000))
    assert await cas.write(requests) == 3000
    assert len(b"".join(await cas.read(read_name("main", digest)))) == 3000
    for call in slow:
        call.cancel()


async def test_a_reader_that_leaves_is_no_harm(cas: CasWire, stores: Stores) -> None:
    """BSR-13."""
    data = os.urandom(8 * CHUNK_BYTES)
    name = read_name("main", await kept(stores, data))
    for _ in range(10):
        call = cas.channel.unary_stream(READ.path, READ.request.SerializeToString, READ.response.FromString)(
            bs.ReadRequest(resource_name=name), timeout=30
        )
        first = await call.read()
        assert isinstance(first, bs.ReadResponse)
        assert data.startswith(first.data)
        call.cancel()
    assert b"".join(await cas.read(name)) == data


async def test_an_upload_never_heard_of_is_at_its_beginning(cas: CasWire) -> None:
    """BSQ-04."""
    assert await cas.query(write_name("main", SHA256.digest(b"?"))) == (0, False)


async def test_a_blob_that_came_otherwise_is_complete(cas: CasWire, stores: Stores) -> None:
    """BSQ-02."""
    digest = await kept(stores, os.urandom(50))
    assert await cas.query(write_name("main", digest)) == (50, True)
