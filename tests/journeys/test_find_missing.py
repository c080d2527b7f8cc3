"""FindMissingBlobs, from a client through Envoy to a cas process."""

import random

from gridwright.digest import Digest, DigestFunction
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ContentAddressableStorageClient
from gridwright.wire.digests import digest_message
from tests.journeys.build_client import BuildClient

SHA256 = DigestFunction.SHA256


async def test_only_what_is_not_there_is_missing(client: BuildClient) -> None:
    there = {SHA256.digest(data): data for data in (random.randbytes(64) for _ in range(50))}
    absent = {Digest(SHA256, random.randbytes(32).hex(), 64) for _ in range(50)}
    await client.upload(there)
    assert await client.store.missing({*there, *absent}) == absent


async def test_the_empty_blob_is_always_there(client: BuildClient) -> None:
    assert await client.store.missing({function.empty for function in DigestFunction}) == set()


async def test_the_right_hash_with_a_wrong_size_is_missing(client: BuildClient) -> None:
    data = random.randbytes(64)
    await client.upload({SHA256.digest(data): data})
    wrong = SHA256.digest(data)._replace(size_bytes=65)
    assert await client.store.missing({wrong}) == {wrong}


async def test_ten_thousand_digests_in_one_question(client: BuildClient) -> None:
    asked = [Digest(SHA256, random.randbytes(32).hex(), 1) for _ in range(10_000)]
    request = pb.FindMissingBlobsRequest(instance_name="main", blob_digests=map(digest_message, asked))
    answer = await ContentAddressableStorageClient(client.channel).find_missing_blobs(request, timeout=60)
    assert {one.hash for one in answer.missing_blob_digests} == {one.hash for one in asked}


async def test_the_empty_instance_name_is_the_first_instance(client: BuildClient) -> None:
    data = random.randbytes(64)
    digest = SHA256.digest(data)
    await client.upload({digest: data})
    request = pb.FindMissingBlobsRequest(instance_name="", blob_digests=[digest_message(digest)])
    answer = await ContentAddressableStorageClient(client.channel).find_missing_blobs(request, timeout=60)
    assert not answer.missing_blob_digests
