"""The questions of FindMissingBlobs, read as bytes."""

from __future__ import annotations

from gridwright.errors import InvalidDigest
from gridwright.instances import Instance
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.digests import digest_function
from gridwright.wire.encoded_digests import EncodedDigests, read_encoded_digests

#: The number of the digests' field, in the question and in the answer.
_FIELD = pb.FindMissingBlobsRequest.DESCRIPTOR.fields_by_name["blob_digests"].number


def read_question(request: pb.FindMissingBlobsRequest, instance: Instance) -> EncodedDigests | None:
    """Return what is asked for, or None if the question is an unusual one.

    Such a one asks for nothing, has fields that we do not know, or a digest that is none; whoever reads it
    digest by digest finds out.
    """
    if not request.blob_digests:
        return None
    named = request.digest_function
    try:
        function = digest_function(named, len(request.blob_digests[0].hash), instance)
    except InvalidDigest:
        return None
    # In the order of their numbers: the name of the instance, the digests, the function.
    encoded = request.SerializeToString()
    start = pb.FindMissingBlobsRequest(instance_name=request.instance_name).ByteSize()
    end = len(encoded) - pb.FindMissingBlobsRequest(digest_function=named).ByteSize()
    return read_encoded_digests(encoded[start:end], _FIELD, function)
