"""Uploads that the CAS or the network breaks off: a client asks how much has come, as Bazel does, and goes on there."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.blobs.store import BlobStore
from gridwright.clock import SystemClock
from gridwright.digest import DigestFunction
from gridwright.errors import Unavailable
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from gridwright.protos.google.bytestream.bytestream_rpc import ByteStreamClient
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.retrying_channel import RetryingChannel
from gridwright_cas.stores.segments.engine import SegmentSettings
from gridwright_cas.stores.segments.store import SegmentStore
from gridwright_cas.stores.verified import VerifiedStore
from tests.cas.conftest import INSTANCES
from tests.cas.cutting_proxy import cutting
from tests.cas.test_process import SEGMENTS, cas_process, data  # noqa: F401  # the fixture
from tests.cas.wire import CasWire

MIB = 2**20
#: Bazel's are smaller; the test would take longer.
MESSAGE_BYTES = 64 * 1024


class Upload:
    """One upload of random bytes, by a client that goes on where the CAS says."""

    def __init__(self, size_bytes: int) -> None:
        self.data = random.Random(size_bytes).randbytes(size_bytes)
        digest = DigestFunction.SHA256.digest(self.data)
        self.read_name = f"main/blobs/{digest}"
        self.name = f"main/uploads/{uuid.uuid4()}/blobs/{digest}"
        #: What was committed each time it was asked.
        self.committed: list[int] = []
        self.sent_bytes = 0

    async def go_on(self, cas: Client, at: int = 0, do: Callable[[], None] = lambda: None) -> None:
        """Send the rest, and *do* something when *at* bytes of the blob have been sent.

        Raises:
            Unavailable: it broke off.
        """
        committed_bytes, _ = await self.status(cas)
        self.committed.append(committed_bytes)
        answer = await cas.once.write(self._messages(committed_bytes, at, do), timeout=60)
        assert answer.committed_size == len(self.data)

    async def status(self, cas: Client) -> tuple[int, bool]:
        answer = await cas.patient.query_write_status(bs.QueryWriteStatusRequest(resource_name=self.name), timeout=30)
        return answer.committed_size, answer.complete

    async def check(self, cas: Client) -> None:
        """Check that the blob is there as it was sent."""
        assert await self.status(cas) == (len(self.data), True)
        messages = cas.once.read(bs.ReadRequest(resource_name=self.read_name), timeout=60)
        assert b"".join([message.data async for message in messages]) == self.data

    async def _messages(self, start: int, at: int, do: Callable[[], None]) -> AsyncIterator[bs.WriteRequest]:
        while start < len(self.data):
            piece = self.data[start : start + MESSAGE_BYTES]
            end = self.sent_bytes = start + len(piece)
            yield bs.WriteRequest(
                resource_name=self.name, write_offset=start, data=piece, finish_write=end == len(self.data)
            )
            if start < at <= end:
                do()
            start = end


class Client(NamedTuple):
    """A client that tries again what may be tried again, and one that does not."""

    patient: ByteStreamClient
    once: ByteStreamClient


@asynccontextmanager
async def connected(target: str) -> AsyncIterator[Client]:
    async with GrpcChannel(target) as channel:
        yield Client(ByteStreamClient(RetryingChannel(channel)), ByteStreamClient(channel))


@pytest.mark.parametrize(
    ("size_bytes", "kills"),
    [
        # Through the page cache, and past it.
        (9 * MIB + 3, [4 * MIB, 7 * MIB]),
        (40 * MIB + 7, [9 * MIB, 18 * MIB, 31 * MIB]),
    ],
)
async def test_an_upload_goes_on_after_each_kill_of_the_cas(
    data: Path,  # noqa: F811
    size_bytes: int,
    kills: list[int],
) -> None:
    upload = Upload(size_bytes)
    for at in kills:
        async with cas_process(data, SEGMENTS) as process, connected("unix:run/cas.sock") as cas:
            with pytest.raises(Unavailable):
                await upload.go_on(cas, at, process.kill)
        assert upload.sent_bytes < size_bytes
    async with cas_process(data, SEGMENTS), connected("unix:run/cas.sock") as cas:
        await upload.go_on(cas)
        await upload.check(cas)
    # Each time some of it had come for good.
    assert upload.committed == sorted(set(upload.committed))
    assert upload.committed[0] == 0


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[dict[str, BlobStore]]:
    """For the fixture ``cas``: instances whose blobs are in segments."""
    async with AsyncExitStack() as stack:
        settings = SegmentSettings(EvictionPolicy(max_bytes=256 * MIB))
        opened: dict[str, BlobStore] = {}
        for number, instance in enumerate(INSTANCES):
            opening = SegmentStore.opened(tmp_path / str(number), SystemClock(), settings)
            opened[instance.storage] = VerifiedStore(await stack.enter_async_context(opening))
        yield opened


async def test_an_upload_goes_on_after_its_connection_was_reset_in_a_message(cas: CasWire) -> None:
    upload = Upload(12 * MIB + 5)
    cuts = [3 * MIB + 12_345, 4 * MIB + 1]
    async with cutting(cas.address, cuts) as address, connected(address) as through:
        for _ in cuts:
            with pytest.raises(Unavailable):
                await upload.go_on(through)
        await upload.go_on(through)
        await upload.check(through)
    # The rest of what was sent may have been on its way, or not written yet when the client asked.
    assert upload.committed[0] == 0
    assert upload.committed[1] >= MIB
    assert upload.committed[2] >= upload.committed[1] + MIB
