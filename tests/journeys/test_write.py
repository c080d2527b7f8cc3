"""Uploads and downloads, through Envoy and a cas process."""

import random
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from gridwright.blobs.store import read_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from gridwright.protos.google.bytestream.bytestream_rpc import ByteStreamClient
from tests.journeys.build_client import BuildClient

SHA256 = DigestFunction.SHA256


def blob_of(size_bytes: int) -> bytes:
    return random.randbytes(size_bytes)


@pytest.mark.parametrize("size_bytes", [0, 1, 1000, 3_000_000, 20_000_000])
async def test_a_blob_comes_back_as_it_went(client: BuildClient, size_bytes: int) -> None:
    data = blob_of(size_bytes)
    digest = SHA256.digest(data)
    await client.upload({digest: data})
    assert await client.store.missing({digest}) == set()
    assert await read_blob(client.store, digest) == data
    assert b"".join([chunk async for chunk in client.store.get(digest)]) == data


@pytest.mark.parametrize("function", DigestFunction)
async def test_every_digest_function_has_blobs_of_its_own(client: BuildClient, function: DigestFunction) -> None:
    data = blob_of(100)
    await client.upload({function.digest(data): data})
    assert await read_blob(client.store, function.digest(data)) == data


async def test_a_part_of_a_blob_can_be_read(client: BuildClient) -> None:
    data = blob_of(5_000_000)
    digest = SHA256.digest(data)
    await client.upload({digest: data})
    part = b"".join([chunk async for chunk in client.store.get(digest, offset=4_000_000, limit=10)])
    assert part == data[4_000_000:4_000_010]


async def test_a_thousand_blobs_travel_in_few_requests(client: BuildClient) -> None:
    blobs = {SHA256.digest(data): data for data in (blob_of(200) for _ in range(1000))}
    assert await client.upload(blobs) == 1000
    assert await client.store.missing(blobs.keys()) == set()
    assert await client.store.get_many(list(blobs)) == blobs


async def test_a_stream_tells_how_much_of_it_was_committed(client: BuildClient) -> None:
    """A client that comes again with a blob that is there learns so (checklist BSW)."""
    data = blob_of(1_500_000)
    digest = SHA256.digest(data)
    name = f"main/uploads/{uuid4()}/blobs/{digest}"
    bytestream = ByteStreamClient(client.channel)

    async def pieces() -> AsyncIterator[bs.WriteRequest]:
        for start in range(0, len(data), 500_000):
            end = start + 500_000
            yield bs.WriteRequest(
                resource_name=name, write_offset=start, data=data[start:end], finish_write=end >= len(data)
            )

    assert (await bytestream.write(pieces(), timeout=30)).committed_size == len(data)
    status = await bytestream.query_write_status(bs.QueryWriteStatusRequest(resource_name=name), timeout=30)
    assert (status.committed_size, status.complete) == (len(data), True)


async def test_what_was_written_survives_in_another_connections_eyes(client: BuildClient) -> None:
    missing = Digest(SHA256, "0" * 64, 12)
    data = blob_of(50)
    await client.upload({SHA256.digest(data): data})
    assert await client.store.missing({missing, SHA256.digest(data)}) == {missing}
