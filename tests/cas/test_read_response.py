"""The short way to encode a ReadResponse says what protobuf says."""

import os

import pytest

from gridwright.protos.google.bytestream import bytestream_pb2 as pb
from gridwright_cas.servicers.read_response import read_response


@pytest.mark.parametrize("size", [1, 127, 128, 16_383, 16_384, 2**20, 2**21, 2**21 + 1])
def test_it_is_encoded_as_protobuf_does(size: int) -> None:
    data = os.urandom(size)
    assert read_response(data).SerializeToString() == pb.ReadResponse(data=data).SerializeToString()
