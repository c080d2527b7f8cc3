"""Clients that stop in the middle: each costs an idle stream, and nobody else notices."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from gridwright.protos.google.bytestream.bytestream_rpc import READ, WRITE
from tests.conformance.blobs import digest_of
from tests.fuzz.cas_under_fire import OK, CasUnderFire, upload_name
from tests.fuzz.effort import stall_seconds

_MIB = 2**20
_SIZE = 8 * _MIB
_STALLED = 20
#: What a stream that stands still may hold: a block, a message of it, and what gRPC has of either.
_STREAM_BYTES = 4 * _MIB
#: What the allocator may keep beside it.
_SLACK_BYTES = 96 * _MIB
#: How often the others come while these stand still.
_TIMES = 40


class StalledRead:
    """Takes a message of a blob, and no more until it is told to."""

    def __init__(self, channel: grpc.Channel, digest: pb.Digest) -> None:
        call: Any = channel.unary_stream(READ.path, bs.ReadRequest.SerializeToString, bs.ReadResponse.FromString)
        self._messages = call(bs.ReadRequest(resource_name=f"main/blobs/{digest.hash}/{digest.size_bytes}"))
        self._first: bytes = next(self._messages).data

    def go_on(self) -> bytes:
        return b"".join([self._first, *(message.data for message in self._messages)])


class StalledWrite:
    """Sends half of a blob, and no more until it is told to."""

    def __init__(self, channel: grpc.Channel, blob: bytes) -> None:
        self._name, self._blob = upload_name(digest_of(blob)), blob
        self._go_on, self._sent = threading.Event(), threading.Event()
        call: Any = channel.stream_unary(WRITE.path, bs.WriteRequest.SerializeToString, bs.WriteResponse.FromString)
        self._answer = call.future(self._requests())
        assert self._sent.wait(60)

    def go_on(self) -> int:
        self._go_on.set()
        return int(self._answer.result(60).committed_size)

    def _requests(self) -> Iterator[bs.WriteRequest]:
        half = _SIZE // 2
        for start in range(0, _SIZE, _MIB):
            if start == half:
                self._sent.set()
                self._go_on.wait()
            piece = self._blob[start : start + _MIB]
            yield bs.WriteRequest(
                resource_name=self._name, write_offset=start, data=piece, finish_write=start + _MIB == _SIZE
            )


def test_clients_that_stand_still_cost_their_streams_and_go_on_where_they_were(cas: CasUnderFire) -> None:
    blobs = [os.urandom(_SIZE) for _ in range(_STALLED)]
    come_and_go(cas)
    before_bytes, threads = cas.anonymous_bytes(), cas.threads()
    with ExitStack() as channels:

        def channel() -> grpc.Channel:
            options = [("grpc.use_local_subchannel_pool", 1)]
            return channels.enter_context(grpc.insecure_channel(cas.target, options=options))

        read_blob = come_and_go(cas)
        reads = [StalledRead(channel(), digest_of(read_blob)) for _ in range(_STALLED)]
        writes = [StalledWrite(channel(), blob) for blob in blobs]
        until = time.monotonic() + stall_seconds()
        while time.monotonic() < until:
            # The others are served as ever.
            come_and_go(cas)
            time.sleep(stall_seconds() / _TIMES)
        assert cas.anonymous_bytes() - before_bytes < 2 * _STALLED * _STREAM_BYTES + _SLACK_BYTES
        assert cas.threads() - threads < _STALLED
        with ThreadPoolExecutor(_STALLED) as pool:
            assert list(pool.map(StalledWrite.go_on, writes)) == [_SIZE] * _STALLED
            assert list(pool.map(StalledRead.go_on, reads)) == [read_blob] * _STALLED
    for blob in blobs:
        assert cas.read_blob(digest_of(blob)) == blob


def come_and_go(cas: CasUnderFire) -> bytes:
    """Upload a large blob and read it again; return it."""
    blob = os.urandom(_SIZE)
    name = upload_name(digest_of(blob))
    requests = [
        bs.WriteRequest(
            resource_name=name,
            write_offset=start,
            data=blob[start : start + _MIB],
            finish_write=start + _MIB == _SIZE,
        )
        for start in range(0, _SIZE, _MIB)
    ]
    assert cas.write(requests).code is OK
    assert cas.read_blob(digest_of(blob)) == blob
    return blob
