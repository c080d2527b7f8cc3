"""RemoteStore keeps the promises of a BlobStore, in process and over gRPC."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from gridwright.auth.authenticator import LoopbackAuthenticator
from gridwright.auth.identity import NOBODY
from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.remote import RemoteStore
from gridwright.blobs.store import BlobStore, read_blob, write_blob
from gridwright.digest import DigestFunction
from gridwright.errors import InvalidRequest, PermissionDenied, Unavailable, Unimplemented, UnknownInstance
from gridwright.instances import Instances, InstanceSettings
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from gridwright.protos.google.bytestream.bytestream_rpc import ByteStream
from gridwright.settings import Address
from gridwright.testing.blob_store_contract import BlobStoreContract, chunks_of, read_all
from gridwright.wire.call import Call
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.in_process_channel import InProcessChannel
from gridwright.wire.limits import MAX_BATCH_BYTES
from gridwright.wire.server import ServerOptions, serving
from gridwright_cas.servicers.bytestream import ByteStreamServicer
from gridwright_cas.servicers.cas import CasServicer
from gridwright_cas.stores.verified import VerifiedStore

SHA256 = DigestFunction.SHA256
INSTANCES = Instances([InstanceSettings(name="main")])


def servicers() -> tuple[CasServicer, ByteStreamServicer]:
    stores = {"main": VerifiedStore(MemoryStore(max_bytes=2**26))}
    return CasServicer(INSTANCES, stores), ByteStreamServicer(INSTANCES, stores)


class BrokenAtTheEnd(ByteStream):
    """Sends all that was asked for, and then fails instead of ending; remembers what was asked for."""

    def __init__(self) -> None:
        self.requests: list[bs.ReadRequest] = []

    async def read(self, request: bs.ReadRequest, call: Call) -> AsyncIterator[bs.ReadResponse]:
        self.requests.append(request)
        yield bs.ReadResponse(data=b"x" * (request.read_limit or 100 - request.read_offset))
        raise Unavailable("cut")

    async def write(self, requests: AsyncIterator[bs.WriteRequest], call: Call) -> bs.WriteResponse:
        raise Unavailable("cut")

    async def query_write_status(self, request: bs.QueryWriteStatusRequest, call: Call) -> bs.QueryWriteStatusResponse:
        raise Unavailable("cut")


@pytest.mark.parametrize(("limit", "expected"), [(10, 10), (None, 100)])
async def test_a_read_that_is_cut_behind_its_last_byte_is_whole(limit: int | None, expected: int) -> None:
    servicer = BrokenAtTheEnd()
    store = RemoteStore(InProcessChannel(servicer), "main")
    digest = SHA256.digest(b"x" * 100)
    assert len(b"".join([chunk async for chunk in store.get(digest, limit=limit)])) == expected
    assert len(servicer.requests) == 1


class TestRemoteStoreInProcess(BlobStoreContract):
    reads_from_the_end = False

    @pytest.fixture
    def store(self) -> BlobStore:
        return RemoteStore(InProcessChannel(*servicers()), "main")


class TestRemoteStoreOverGrpc(BlobStoreContract):
    reads_from_the_end = False

    @pytest.fixture
    async def store(self) -> AsyncIterator[BlobStore]:
        options = ServerOptions(
            listen=[Address("127.0.0.1:0")],
            authenticator=LoopbackAuthenticator(),
            registry=CollectorRegistry(),
            drain_seconds=0.5,
        )
        async with serving(servicers(), options) as (port,), GrpcChannel(f"127.0.0.1:{port}") as channel:
            yield RemoteStore(channel, "main")

    async def test_wrong_bytes_are_refused_by_the_other_side(self, store: BlobStore) -> None:
        right, wrong = os.urandom(100), os.urandom(100)
        digest = SHA256.digest(right)
        assert isinstance((await store.put_many({digest: wrong}))[digest], InvalidRequest)
        with pytest.raises(InvalidRequest):
            await store.put(digest, chunks_of(wrong))
        assert await store.missing({digest}) == {digest}

    async def test_blobs_around_the_size_of_a_batch_travel(self, store: BlobStore) -> None:
        blobs = {
            SHA256.digest(data): data
            for data in (os.urandom(MAX_BATCH_BYTES // 2 + more) for more in (-1000, -256, 0, 1, MAX_BATCH_BYTES))
        }
        assert await store.put_many(blobs) == dict.fromkeys(blobs)
        assert await store.get_many(blobs) == blobs


async def test_an_instance_that_the_other_side_does_not_serve_is_an_error_and_no_absence() -> None:
    store = RemoteStore(InProcessChannel(*servicers()), "elsewhere")
    with pytest.raises(UnknownInstance):
        await store.missing({SHA256.digest(b"x")})


async def test_a_caller_without_rights_hears_so() -> None:
    store = RemoteStore(InProcessChannel(*servicers(), identity=NOBODY), "main")
    with pytest.raises(PermissionDenied):
        await read_blob(store, SHA256.digest(b"x"))
    with pytest.raises(PermissionDenied):
        await write_blob(store, SHA256.digest(b"x"), b"x")


async def test_a_cas_elsewhere_is_not_read_from_its_end_and_announces_nothing() -> None:
    store = RemoteStore(InProcessChannel(*servicers()), "main")
    assert not store.announces_removals
    with pytest.raises(Unimplemented):
        await read_all(store, SHA256.digest(b"x"), offset=-1)


async def test_a_cas_that_does_not_answer_is_unavailable_and_not_empty() -> None:
    async with GrpcChannel("127.0.0.1:1") as channel:
        store = RemoteStore(channel, "main", timeout_seconds=5)
        with pytest.raises(Unavailable):
            await store.missing({SHA256.digest(b"x")})
