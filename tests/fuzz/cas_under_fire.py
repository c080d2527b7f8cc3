"""A CAS process, and a client that asserts of each answer what must be true of any."""

from __future__ import annotations

import itertools
import os
import queue
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import grpc
from google.protobuf.message import Message

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_rpc as rpc
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from gridwright.protos.google.bytestream.bytestream_rpc import QUERY_WRITE_STATUS, READ, WRITE
from gridwright.wire.rpc import Method
from tests.conformance.blobs import digest_of

M = TypeVar("M", bound=Message)

OK = grpc.StatusCode.OK
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
OUT_OF_RANGE = grpc.StatusCode.OUT_OF_RANGE
ABORTED = grpc.StatusCode.ABORTED
RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
#: What a request of any kind may be answered. Not that the server failed, nor that it took too long.
_ANSWERS = frozenset(
    {
        *(OK, INVALID, NOT_FOUND, OUT_OF_RANGE, ABORTED, RESOURCE_EXHAUSTED),
        *(grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.FAILED_PRECONDITION),
    }
)
_GRID = """
instances: [{{name: main}}, {{name: a/b, storage: main}}]
cas:
  listen: unix:cas.sock
  admin: unix:admin.sock
  uploads: {{spool_path: uploads}}
  store: {{verify: {{backend: {store}}}}}
"""
_FILES = "{content_path: blobs, eviction_policy: {max_bytes: 4Gb}}"
#: One that keeps unfinished uploads itself, and one that needs the spool for them and keeps blobs compressed.
STORES = {
    "segments": f"{{segments: {_FILES}}}",
    "compressed": f"{{compression: {{compression_algorithm: {{zstd: {{}}}}, backend: {{filesystem: {_FILES}}}}}}}",
}
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
#: Hours, by the measure of any call here, so that a hang fails and a slow machine does not.
_CALL_SECONDS = 60.0
_FAILURES = ("Traceback", '"error"', "Fatal", "Segmentation")


class Answer(NamedTuple, Generic[M]):
    """How a call went."""

    code: grpc.StatusCode
    #: The text of an error.
    text: str
    #: What came before the call ended.
    messages: Sequence[M]

    @property
    def message(self) -> M:
        """The response of a call that has one."""
        assert self.code is OK, self
        (message,) = self.messages
        return message


class CasUnderFire:
    """A CAS that runs in *directory*, and the calls to it.

    The messages of every call may be bytes that are none.
    """

    def __init__(self, directory: Path, process: subprocess.Popen[bytes]) -> None:
        self.target = f"unix:{directory / 'cas.sock'}"
        self._process = process
        self._log = directory / "cas.log"
        self._looked_at_bytes = 0
        self._fresh = itertools.count()
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 2**26)]
        self.channel = grpc.insecure_channel(self.target, options=options)

    def call(self, method: Method[Any, M], requests: Iterable[Message | bytes]) -> Answer[M]:
        """Make a call of any kind; one that does not stream its requests sends the only one of *requests*.

        Asserts that the answer is one that a sound server gives.
        """
        codecs = (_encoded, method.response.FromString)
        messages: list[M] = []
        call: Any
        try:
            if method.client_streaming:
                messages.append(self.channel.stream_unary(method.path, *codecs)(iter(requests), timeout=_CALL_SECONDS))
            else:
                (request,) = requests
                if method.server_streaming:
                    call = self.channel.unary_stream(method.path, *codecs)(request, timeout=_CALL_SECONDS)
                    messages.extend(call)
                else:
                    messages.append(self.channel.unary_unary(method.path, *codecs)(request, timeout=_CALL_SECONDS))
        except grpc.RpcError as error:
            code, text = error.code(), error.details() or ""
            assert code in _ANSWERS, f"{method.name}: {code.name}: {text}"
            assert text, f"{method.name}: {code.name} says nothing"
            return Answer(code, text, messages)
        return Answer(OK, "", messages)

    def find_missing(self, digests: Iterable[pb.Digest]) -> list[pb.Digest]:
        request = pb.FindMissingBlobsRequest(instance_name="main", blob_digests=digests)
        return list(self.call(rpc.FIND_MISSING_BLOBS, [request]).message.missing_blob_digests)

    def is_missing(self, digest: pb.Digest) -> bool:
        return bool(self.find_missing([digest]))

    def put(self, *blobs: bytes) -> None:
        """Keep *blobs*, which fit in a batch."""
        entries = [pb.BatchUpdateBlobsRequest.Request(digest=digest_of(blob), data=blob) for blob in blobs]
        request = pb.BatchUpdateBlobsRequest(instance_name="main", requests=entries)
        response = self.call(rpc.BATCH_UPDATE_BLOBS, [request]).message
        assert [one.status.code for one in response.responses] == [0] * len(blobs)

    def read(self, name: str, offset: int = 0, limit: int = 0) -> tuple[grpc.StatusCode, bytes]:
        """Return how a read ended, and what it gave."""
        request = bs.ReadRequest(resource_name=name, read_offset=offset, read_limit=limit)
        answer = self.call(READ, [request])
        return answer.code, b"".join([message.data for message in answer.messages])

    def read_blob(self, digest: pb.Digest) -> bytes:
        code, data = self.read(f"main/blobs/{digest.hash}/{digest.size_bytes}")
        assert code is OK, digest
        return data

    def write(self, requests: Iterable[bs.WriteRequest | bytes]) -> Answer[bs.WriteResponse]:
        return self.call(WRITE, requests)

    def committed(self, name: str) -> tuple[int, bool]:
        """Return how much of an upload is there, and whether it is all."""
        answer = self.call(QUERY_WRITE_STATUS, [bs.QueryWriteStatusRequest(resource_name=name)]).message
        return answer.committed_size, answer.complete

    def broken_off_write(self, requests: Sequence[bs.WriteRequest]) -> None:
        """Send *requests*, and then neither more nor an end: the call is cancelled."""
        sent = threading.Event()
        waiting: queue.SimpleQueue[None] = queue.SimpleQueue()

        def sending() -> Iterator[bs.WriteRequest]:
            yield from requests
            sent.set()
            waiting.get()

        method = self.channel.stream_unary(WRITE.path, _encoded, WRITE.response.FromString)
        call: Any = method.future(sending(), timeout=_CALL_SECONDS)
        assert sent.wait(_CALL_SECONDS) or call.done()
        call.cancel()
        waiting.put(None)

    def fresh(self, data: bytes) -> bytes:
        """Return *data* behind something that no blob had before it."""
        return b"%d/%d:" % (os.getpid(), next(self._fresh)) + data

    def anonymous_bytes(self) -> int:
        """Return the memory that the process has of its own."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

    def open_files(self) -> int:
        """Return how many files the process has open."""
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def threads(self) -> int:
        """Return how many threads the process has."""
        return len(os.listdir(f"/proc/{self._process.pid}/task"))

    def assert_well(self) -> None:
        """It runs, has said nothing of a failure since this was asked last, and still keeps what it is given."""
        assert self._process.poll() is None, f"the CAS ended with status {self._process.returncode}"
        text = self._log.read_text(errors="replace")
        said, self._looked_at_bytes = text[self._looked_at_bytes :], len(text)
        assert not any(word in said for word in _FAILURES), said[-4000:]
        blob = self.fresh(b"well")
        self.put(blob)
        assert self.read_blob(digest_of(blob)) == blob


@contextmanager
def cas_under_fire(directory: Path, store: str) -> Iterator[CasUnderFire]:
    """Run a CAS with one of ``STORES`` in *directory*, which has a short path, while the block runs."""
    (directory / "grid.yaml").write_text(_GRID.format(store=STORES[store]))
    with (directory / "cas.log").open("wb") as log:
        command = [sys.executable, "-m", "gridwright_cas", "--config", "grid.yaml"]
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
    try:
        cas = CasUnderFire(directory, process)
        with cas.channel:
            _wait_until_ready(cas, process, directory / "cas.log")
            yield cas
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def upload_name(digest: pb.Digest, compressor: str = "") -> str:
    """Return a new name to upload a blob by."""
    kind = f"compressed-blobs/{compressor}" if compressor else "blobs"
    return f"main/uploads/{uuid.uuid4()}/{kind}/{digest.hash}/{digest.size_bytes}"


def _wait_until_ready(cas: CasUnderFire, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < give_up:
        try:
            grpc.channel_ready_future(cas.channel).result(timeout=0.5)
        except grpc.FutureTimeoutError:
            continue
        return
    raise AssertionError(f"the CAS did not start:\n{log.read_text(errors='replace')}")


def _encoded(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()
