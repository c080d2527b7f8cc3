"""Bytes in place of requests, and requests with a few bits turned."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import (
    Capabilities,
    ContentAddressableStorage,
)
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from gridwright.protos.google.bytestream.bytestream_rpc import ByteStream
from gridwright.wire.rpc import Method
from tests.conformance.blobs import digest_of
from tests.fuzz.cas_under_fire import CasUnderFire
from tests.fuzz.effort import effort

BLOB = b"asked for in many ways"
DIGEST = digest_of(BLOB)
NAME = f"{DIGEST.hash}/{DIGEST.size_bytes}"
METHODS: list[Method[Any, Any]] = [
    method for service in (ContentAddressableStorage, ByteStream, Capabilities) for method in service.service.methods
]
#: A sound request of each kind, to be spoiled.
REQUESTS: list[Message] = [
    pb.FindMissingBlobsRequest(instance_name="main", blob_digests=[DIGEST] * 3),
    pb.BatchUpdateBlobsRequest(
        instance_name="main", requests=[pb.BatchUpdateBlobsRequest.Request(digest=DIGEST, data=BLOB)]
    ),
    pb.BatchReadBlobsRequest(
        instance_name="main",
        digests=[DIGEST],
        acceptable_compressors=[pb.Compressor.ZSTD],
        digest_function=pb.DigestFunction.SHA256,
    ),
    pb.GetTreeRequest(instance_name="main", root_digest=DIGEST, page_size=3, page_token="7"),
    pb.SplitBlobRequest(instance_name="main", blob_digest=DIGEST),
    pb.SpliceBlobRequest(instance_name="main", blob_digest=DIGEST, chunk_digests=[DIGEST]),
    pb.GetCapabilitiesRequest(instance_name="main"),
    bs.ReadRequest(resource_name=f"main/blobs/{NAME}", read_offset=3, read_limit=5),
    bs.QueryWriteStatusRequest(resource_name=f"main/uploads/u/blobs/{NAME}"),
    bs.WriteRequest(resource_name=f"main/uploads/u/blobs/{NAME}", data=BLOB, finish_write=True),
]
spoiled = st.tuples(
    st.sampled_from(REQUESTS), st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=4)
)


@effort(share=2)
@given(method=st.sampled_from(METHODS), data=st.binary(max_size=300))
def test_any_bytes_are_answered_like_a_request(cas: CasUnderFire, method: Method[Any, Any], data: bytes) -> None:
    cas.call(method, [data])


@effort(share=2)
@given(method=st.sampled_from(METHODS), request=st.sampled_from(REQUESTS))
def test_the_request_of_another_method_is_answered(
    cas: CasUnderFire, method: Method[Any, Any], request: Message
) -> None:
    cas.call(method, [request])


@effort(share=3)
@given(drawn=spoiled)
def test_a_request_with_some_wrong_bytes_is_answered(
    cas: CasUnderFire, drawn: tuple[Message, list[tuple[int, int]]]
) -> None:
    request, faults = drawn
    data = bytearray(request.SerializeToString())
    for where, value in faults:
        data[where % len(data)] = value
    method = next(method for method in METHODS if method.request is type(request))
    cas.call(method, [bytes(data)])
