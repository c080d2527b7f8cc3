"""Whatever comes to ContentAddressableStorage is answered, or refused as the caller's fault: never as a fault of ours.

The long version of each test is one of the long checks (``make soak``).
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterable

import brotli
import pytest
import zstandard
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from gridwright.auth.identity import Identity, Role
from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import write_blob
from gridwright.digest import DigestFunction
from gridwright.errors import InvalidRequest, NotFound
from gridwright.instances import Instances, InstanceSettings
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ContentAddressableStorageClient
from gridwright.wire.digests import digest_message
from gridwright.wire.in_process_channel import InProcessChannel
from gridwright.wire.statuses import status_message
from gridwright_cas.servicers.cas import CasServicer
from gridwright_cas.stores.verified import VerifiedStore

SHA256 = DigestFunction.SHA256
INSTANCES = Instances([InstanceSettings(name="main")])
#: That of the caller's own mistakes, and of what is not there.
CALLERS_FAULT = (InvalidRequest, NotFound)

hashes = st.one_of(
    st.text(max_size=70),
    st.text("0123456789abcdefABCDEF", min_size=30, max_size=130),
    st.sampled_from([SHA256.digest(data).hash for data in (b"", b"hello", b"\xff")]),
)
digests = st.one_of(
    st.builds(pb.Digest, hash=hashes, size_bytes=st.integers(-(2**63), 2**63 - 1)),
    st.binary(max_size=50).map(lambda data: digest_message(SHA256.digest(data))),
)
functions = st.one_of(st.just(0), st.integers(-1, 12))
compressed = st.binary(max_size=500).flatmap(
    lambda data: st.sampled_from(
        [data, zstandard.compress(data), zlib.compress(data, wbits=-15), zlib.compress(data), brotli.compress(data)]
    )
)
entries = st.builds(
    pb.BatchUpdateBlobsRequest.Request,
    digest=digests,
    data=compressed,
    compressor=st.integers(0, 5),  # unknown ones as well
)
names = st.text(max_size=5)
directories = st.builds(
    pb.Directory,
    files=st.lists(st.builds(pb.FileNode, name=names, digest=digests), max_size=3),
    directories=st.lists(st.builds(pb.DirectoryNode, name=names, digest=digests), max_size=3),
)
#: Directories, those that are damaged, and what is none.
trees = st.lists(
    st.one_of(
        directories.map(lambda one: one.SerializeToString()),
        st.tuples(directories, st.integers(0, 200)).map(lambda one: one[0].SerializeToString()[: one[1]]),
        st.binary(max_size=60),
    ),
    min_size=1,
    max_size=4,
)


def check(ask: Callable[[ContentAddressableStorageClient, VerifiedStore], Awaitable[Iterable[int]]]) -> None:
    """Let *ask* ask a new CAS; no entry may have a status that tells of a fault of ours."""

    async def run() -> None:
        store = VerifiedStore(MemoryStore(max_bytes=2**26))
        channel = InProcessChannel(CasServicer(INSTANCES, {"main": store}), identity=Identity("fuzz", frozenset(Role)))
        try:
            codes = await ask(ContentAddressableStorageClient(channel), store)
        except CALLERS_FAULT:
            return
        assert set(codes) <= {0, *(status_message(error("")).code for error in (InvalidRequest, NotFound))}

    asyncio.run(run())


def check_batch_update(request: pb.BatchUpdateBlobsRequest) -> None:
    async def ask(cas: ContentAddressableStorageClient, store: VerifiedStore) -> Iterable[int]:
        answer = await cas.batch_update_blobs(request, timeout=10)
        assert len(answer.responses) == len(request.requests)
        return [one.status.code for one in answer.responses]

    check(ask)


def check_questions(asked: list[pb.Digest], function: int, compressors: list[int]) -> None:
    async def ask(cas: ContentAddressableStorageClient, store: VerifiedStore) -> Iterable[int]:
        fields = {"instance_name": "main", "digest_function": function}
        read = pb.BatchReadBlobsRequest(digests=asked, acceptable_compressors=compressors, **fields)  # type: ignore[arg-type]
        found = pb.FindMissingBlobsRequest(blob_digests=asked, **fields)  # type: ignore[arg-type]
        missing = await cas.find_missing_blobs(found, timeout=10)
        assert {one.hash for one in missing.missing_blob_digests} <= {one.hash for one in asked}
        return [one.status.code for one in (await cas.batch_read_blobs(read, timeout=10)).responses]

    check(ask)


def check_tree(blobs: list[bytes], root: pb.Digest | None, page_size: int, token: str) -> None:
    async def ask(cas: ContentAddressableStorageClient, store: VerifiedStore) -> Iterable[int]:
        above: pb.Digest | None = None
        for blob in blobs:
            # Each is the child of the next one, where that is a Directory.
            try:
                directory = pb.Directory.FromString(blob)
            except DecodeError:
                data = blob
            else:
                if above is not None:
                    directory.directories.add(name="below", digest=above)
                data = directory.SerializeToString()
            await write_blob(store, SHA256.digest(data), data)
            above = digest_message(SHA256.digest(data))
        request = pb.GetTreeRequest(
            instance_name="main", root_digest=root or above, page_size=page_size, page_token=token
        )
        async for page in cas.get_tree(request, timeout=10):
            assert len(page.directories) <= page_size or page_size == 0
        return []

    check(ask)


batches = st.builds(
    pb.BatchUpdateBlobsRequest,
    instance_name=st.sampled_from(["main", "", "other"]),
    requests=st.lists(entries, max_size=4),
    digest_function=functions,
)
questions = (st.lists(digests, max_size=5), functions, st.lists(st.integers(-3, 100), max_size=3))
tree_questions = (
    trees,
    st.one_of(st.none(), digests),
    st.integers(-2, 3),
    st.one_of(st.just(""), st.text(max_size=12), st.integers(-5, 5).map(str)),
)
SHORT = settings(max_examples=150, deadline=None)
LONG = settings(max_examples=50_000, deadline=None)

test_any_batch_is_answered = SHORT(given(batches)(check_batch_update))
test_any_question_is_answered = SHORT(given(*questions)(check_questions))
test_any_tree_is_answered = SHORT(given(*tree_questions)(check_tree))
test_any_of_many_batches_is_answered = pytest.mark.soak(LONG(given(batches)(check_batch_update)))
test_any_of_many_questions_is_answered = pytest.mark.soak(LONG(given(*questions)(check_questions)))
test_any_of_many_trees_is_answered = pytest.mark.soak(LONG(given(*tree_questions)(check_tree)))
