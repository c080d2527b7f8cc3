"""ContentAddressableStorage on the wire; the letters and numbers are rows of the conformance checklist."""

from __future__ import annotations

import os

import grpc
import pytest
import zstandard
from google.rpc import code_pb2, error_details_pb2

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import BlobStore, read_blob, write_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import ResourceExhausted, Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_rpc as rpc
from gridwright.testing.broken_store import BrokenStore
from gridwright.testing.counting_store import CountingStore
from gridwright.wire.digests import digest_message
from gridwright.wire.limits import MAX_BATCH_BYTES
from gridwright_cas.servicers.compression.unpacking import MAX_UNPACKED_BYTES
from gridwright_cas.stores import trees
from gridwright_cas.stores.codecs import ZstdCodec
from gridwright_cas.stores.compressed import CompressedStore
from gridwright_cas.stores.verified import VerifiedStore
from tests.cas.wire import CasWire, detail, failure

SHA256 = DigestFunction.SHA256
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
DENIED = grpc.StatusCode.PERMISSION_DENIED

Stores = dict[str, BlobStore]


def some_blobs(count: int, size: int = 100) -> dict[Digest, bytes]:
    return {SHA256.digest(data): data for data in (os.urandom(size) for _ in range(count))}


def codes(
    responses: list[pb.BatchUpdateBlobsResponse.Response] | list[pb.BatchReadBlobsResponse.Response],
) -> list[int]:
    assert all(response.HasField("status") for response in responses)  # BUB-02, BRB-02
    return [response.status.code for response in responses]


async def test_find_missing_returns_what_is_absent_once_and_in_order(cas: CasWire, stores: Stores) -> None:
    """FMB-01, FMB-04, FMB-05."""
    (here, data), *absent = some_blobs(4).items()
    await write_blob(stores["main"], here, data)
    asked = [absent[2][0], here, absent[0][0], absent[2][0], absent[1][0]]
    assert await cas.find_missing(asked) == [digest_message(one) for one in (asked[0], asked[2], asked[4])]


async def test_find_missing_of_nothing(cas: CasWire) -> None:
    """FMB-02."""
    assert await cas.find_missing([]) == []


@pytest.mark.parametrize("function", list(DigestFunction))
async def test_the_empty_blob_is_never_missing(cas: CasWire, function: DigestFunction) -> None:
    """FMB-03, BRB-06, BUB-13, LIF-01."""
    empty, named = function.empty, int(function)
    assert await cas.find_missing([empty], digest_function=named) == []
    assert codes(await cas.batch_read([empty], digest_function=named)) == [0]
    assert codes(await cas.batch_update([(empty, b"")], digest_function=named)) == [0]


async def test_find_missing_takes_many_digests(cas: CasWire) -> None:
    """FMB-08."""
    digests = [Digest(SHA256, f"{number:064x}", 1) for number in range(16_384)]
    assert len(await cas.find_missing(digests)) == 16_384


async def test_find_missing_with_a_store_that_does_not_answer_is_unavailable(cas: CasWire, stores: Stores) -> None:
    """FMB-09."""
    stores["main"] = BrokenStore(Unavailable("the disk does not answer", retry_after_seconds=2))
    status = await failure(cas.find_missing(some_blobs(1)), grpc.StatusCode.UNAVAILABLE)
    assert detail(status, error_details_pb2.RetryInfo).retry_delay.seconds == 2


@pytest.mark.parametrize(
    ("hash_", "size"),
    [("A" * 64, 1), ("a" * 63, 1), ("g" * 64, 1), ("", 1), ("a" * 64, -1), ("../" * 21 + "a", 1)],
    ids=["upper-case", "short", "not-hex", "unset", "negative", "dots"],
)
async def test_digests_that_are_none_are_refused(cas: CasWire, hash_: str, size: int) -> None:
    """DIG-01, DIG-03, DIG-04, BUB-12."""
    bad = Digest(SHA256, hash_, size)
    good, data = next(iter(some_blobs(1).items()))
    status = await failure(cas.find_missing([good, bad]), INVALID)
    assert detail(status, error_details_pb2.BadRequest).field_violations[0].field == "blob_digests[1]"
    await failure(cas.batch_read([good, bad]), INVALID)
    await failure(cas.get_tree(bad), INVALID)
    assert codes(await cas.batch_update([(bad, b"x"), (good, data)])) == [code_pb2.INVALID_ARGUMENT, 0]


async def test_one_request_uses_one_digest_function(cas: CasWire, stores: Stores) -> None:
    """DIG-08, DIG-09, DIG-10."""
    data = b"hello"
    both = [DigestFunction.SHA1.digest(data), SHA256.digest(data)]
    await failure(cas.find_missing(both), INVALID)
    await failure(cas.batch_read(both), INVALID)
    assert codes(await cas.batch_update([(one, data) for one in both])) == [0, code_pb2.INVALID_ARGUMENT]
    await failure(cas.find_missing([SHA256.digest(data)], digest_function=int(DigestFunction.SHA512)), INVALID)
    status = await failure(cas.find_missing([SHA256.digest(data)], digest_function=99), INVALID)
    assert "usable are" in status.message


async def test_the_only_function_of_an_instance_need_not_be_named(cas: CasWire) -> None:
    """DIG-06."""
    digest = DigestFunction.BLAKE3.digest(b"hello")
    assert codes(await cas.batch_update([(digest, b"hello")], instance="b3")) == [0]
    assert await cas.find_missing([digest], instance="b3") == []


async def test_batches_go_in_and_come_out(cas: CasWire) -> None:
    """BUB-01, BUB-09, BUB-10, BRB-01, BRB-07, BRB-08."""
    blobs = some_blobs(50)
    entries = [*blobs.items(), *list(blobs.items())[:2]]
    for _ in range(2):
        updated = await cas.batch_update(entries)
        assert codes(updated) == [0] * 52
        assert [one.digest for one in updated] == [digest_message(digest) for digest, _ in entries]
    absent = next(iter(some_blobs(1)))
    asked = [*blobs, absent, next(iter(blobs))]
    read = await cas.batch_read(asked)
    assert [one.digest for one in read] == [digest_message(digest) for digest in asked]
    assert codes(read) == [0] * 50 + [code_pb2.NOT_FOUND, 0]
    assert [one.data for one in read] == [*blobs.values(), b"", next(iter(blobs.values()))]
    assert absent.hash in read[50].status.message


async def test_the_empty_name_is_an_alias_of_the_first_instance_and_others_are_apart(cas: CasWire) -> None:
    """INS-01, INS-02, INS-05."""
    blobs = some_blobs(1)
    await cas.batch_update(blobs.items(), instance="a/b/c")
    assert await cas.find_missing(blobs, instance="a/b/c") == []
    assert len(await cas.find_missing(blobs)) == 1
    await cas.batch_update(blobs.items(), instance="")
    assert await cas.find_missing(blobs, instance="main") == []


async def test_each_entry_of_a_batch_succeeds_or_fails_on_its_own(cas: CasWire) -> None:
    """BUB-01, BUB-03, DIG-02, DIG-20."""
    (good, data), (bad, _), (sized, sized_data), (also, also_data) = some_blobs(4).items()
    sized = sized._replace(size_bytes=99)
    responses = await cas.batch_update([(good, data), (bad, b"wrong"), (sized, sized_data), (also, also_data)])
    assert codes(responses) == [0, code_pb2.INVALID_ARGUMENT, code_pb2.INVALID_ARGUMENT, 0]
    assert await cas.find_missing([good, bad, sized, also]) == [digest_message(bad), digest_message(sized)]


async def test_one_digest_with_two_contents_is_refused(cas: CasWire) -> None:
    (good, data), *_ = some_blobs(1).items()
    assert codes(await cas.batch_update([(good, data), (good, b"other")])) == [0, code_pb2.INVALID_ARGUMENT]


async def test_a_batch_may_be_exactly_as_large_as_the_limit(cas: CasWire) -> None:
    """BUB-04, BRB-03."""
    (digest, data), *_ = some_blobs(1, MAX_BATCH_BYTES).items()
    assert codes(await cas.batch_update([(digest, data)])) == [0]
    (response,) = await cas.batch_read([digest])
    assert response.data == data
    status = await failure(cas.batch_update([(digest, data), (SHA256.digest(b"x"), b"x")]), INVALID)
    assert "ByteStream" in status.message
    await failure(cas.batch_read([digest, SHA256.digest(b"x")]), INVALID)


async def test_the_largest_batch_of_small_blobs_fits_a_client_with_default_limits(cas: CasWire) -> None:
    """BRB-09, BRB-10: 4,000 blobs that are as large as the limit together; the test's channel receives 4 MiB."""
    blobs = some_blobs(4000, MAX_BATCH_BYTES // 4000)
    assert codes(await cas.batch_update(blobs.items())) == [0] * 4000
    assert codes(await cas.batch_read(blobs)) == [0] * 4000


async def test_empty_batches_are_answered(cas: CasWire) -> None:
    """BUB-11."""
    assert await cas.batch_update([]) == []
    assert await cas.batch_read([]) == []


def packed(
    digest: Digest, data: bytes, compressor: pb.Compressor.Value = pb.Compressor.ZSTD
) -> pb.BatchUpdateBlobsRequest.Request:
    return pb.BatchUpdateBlobsRequest.Request(digest=digest_message(digest), data=data, compressor=compressor)


async def test_a_compressor_that_is_not_offered_fails_its_entry(cas: CasWire) -> None:
    """BUB-07, BRB-04, BRB-05."""
    blobs = some_blobs(2)
    (digest, data), (other, other_data) = blobs.items()
    unknown = packed(digest, data)
    unknown.compressor = 77  # type: ignore[assignment]
    answer = await cas.batch_update_entries([unknown, packed(other, other_data, pb.Compressor.IDENTITY)])
    assert codes(answer) == [code_pb2.INVALID_ARGUMENT, 0]
    assert "ZSTD" in answer[0].status.message
    (response,) = await cas.batch_read([other], acceptable_compressors=[77])
    assert (response.compressor, response.data) == (pb.Compressor.IDENTITY, other_data)


async def test_compressed_entries_succeed_and_fail_each_for_itself(cas: CasWire, stores: Stores) -> None:
    """BUB-01, BUB-08, CMP-05 to CMP-07."""
    blobs = [bytes(50_000) + os.urandom(8) for _ in range(4)]
    digests = [SHA256.digest(blob) for blob in blobs]
    frames = [zstandard.compress(blob) for blob in blobs]
    answer = await cas.batch_update_entries(
        [
            packed(digests[0], frames[0]),
            packed(digests[1]._replace(size_bytes=10), frames[1]),
            packed(digests[2], frames[2][:-1]),
            packed(digests[3], frames[3]),
            packed(SHA256.digest(b"x"), frames[0]),
            packed(digests[0], frames[0]),
        ]
    )
    assert codes(answer) == [0, 3, 3, 0, 3, 0]
    assert [await read_blob(stores["main"], digest) for digest in (digests[0], digests[3])] == [blobs[0], blobs[3]]


async def test_what_a_batch_unpacks_to_is_bounded(cas: CasWire) -> None:
    """CMP-07: what is beyond the bound is refused before it is unpacked, the rest is taken."""
    size = MAX_UNPACKED_BYTES // 2
    blobs = [os.urandom(8) + bytes(size - 8) for _ in range(3)]
    entries = [packed(SHA256.digest(blob), zstandard.compress(blob)) for blob in blobs]
    answer = await cas.batch_update_entries(entries)
    assert codes(answer) == [0, 0, code_pb2.INVALID_ARGUMENT]
    assert "ByteStream" in answer[2].status.message


async def test_what_shrinks_is_read_in_zstd_by_who_takes_it(cas: CasWire, stores: Stores) -> None:
    """BRB-04."""
    blobs = [bytes(10_000) + os.urandom(8), os.urandom(10_000), b"short", bytes(2_000_000)]
    for blob in blobs:
        await write_blob(stores["main"], SHA256.digest(blob), blob)
    answer = await cas.batch_read(map(SHA256.digest, blobs), acceptable_compressors=[pb.Compressor.ZSTD])
    assert [one.compressor for one in answer] == [1, 0, 0, 1]
    assert [zstandard.decompress(one.data) if one.compressor else one.data for one in answer] == blobs


async def test_frames_that_are_kept_are_sent_as_they_are(cas: CasWire, stores: Stores) -> None:
    inner = MemoryStore(max_bytes=2**24)
    stores["main"] = VerifiedStore(CompressedStore(inner, ZstdCodec(level=19)))
    blob = b"".join(b"line %d\n" % number for number in range(1000))
    digest = SHA256.digest(blob)
    await write_blob(stores["main"], digest, blob)
    (answer,) = await cas.batch_read([digest], acceptable_compressors=[pb.Compressor.ZSTD])
    assert answer.data == await read_blob(inner, digest)


async def test_a_batch_is_one_call_of_the_store(cas: CasWire, stores: Stores) -> None:
    counted = stores["main"] = CountingStore(stores["main"])
    blobs = {SHA256.digest(data): data for data in (bytes(100) + os.urandom(8) for _ in range(50))}
    await cas.batch_update(blobs.items())
    await cas.batch_update_entries([packed(digest, zstandard.compress(data)) for digest, data in blobs.items()])
    await cas.find_missing(blobs)
    await cas.batch_read(blobs)
    await cas.batch_read(blobs, acceptable_compressors=[pb.Compressor.ZSTD])
    assert counted.calls == {"put_many": 2, "missing": 1, "get_many": 2}


async def test_a_tree_is_one_call_of_the_store_for_each_level(cas: CasWire, stores: Stores, tree: Tree) -> None:
    """GT-11: forty levels of two references each are forty-one directories."""
    top = await tree.add(files=1)
    for _ in range(40):
        top = await tree.add(top, top)
    counted = stores["main"] = CountingStore(stores["main"])
    assert len(sent(await cas.get_tree(top))) == 41
    assert counted.calls == {"get_many": 41}


async def test_a_full_store_fails_the_entry(cas: CasWire, stores: Stores) -> None:
    """BUB-06, LIF-04."""
    stores["main"] = BrokenStore(ResourceExhausted("full"))
    assert codes(await cas.batch_update(some_blobs(2).items())) == [code_pb2.RESOURCE_EXHAUSTED] * 2


async def test_an_unknown_instance_is_an_invalid_argument_in_every_call(cas: CasWire) -> None:
    """INS-04."""
    blobs = some_blobs(1)
    for call in (
        cas.find_missing(blobs, instance="nope"),
        cas.batch_update(blobs.items(), instance="nope"),
        cas.batch_read(blobs, instance="nope"),
        cas.get_tree(next(iter(blobs)), instance="nope"),
    ):
        status = await failure(call, INVALID)
        assert "'main'" in status.message
        assert detail(status, error_details_pb2.ErrorInfo).reason == "UNKNOWN_INSTANCE"


async def test_callers_need_their_role(cas: CasWire) -> None:
    nobody, reader = [("roles", "")], [("roles", "reader")]
    for method, request in (
        (rpc.FIND_MISSING_BLOBS, pb.FindMissingBlobsRequest()),
        (rpc.BATCH_READ_BLOBS, pb.BatchReadBlobsRequest()),
        (rpc.BATCH_UPDATE_BLOBS, pb.BatchUpdateBlobsRequest()),
        (rpc.SPLIT_BLOB, pb.SplitBlobRequest()),
        (rpc.SPLICE_BLOB, pb.SpliceBlobRequest()),
    ):
        await failure(cas.call(method, request, nobody), DENIED)
    status = await failure(cas.call(rpc.BATCH_UPDATE_BLOBS, pb.BatchUpdateBlobsRequest(), reader), DENIED)
    assert "cas_writer" in status.message
    await cas.call(rpc.FIND_MISSING_BLOBS, pb.FindMissingBlobsRequest(), reader)
    await failure(cas.stream(rpc.GET_TREE, pb.GetTreeRequest(), nobody), DENIED)


async def test_splitting_and_splicing_are_not_offered(cas: CasWire) -> None:
    for method, request in ((rpc.SPLIT_BLOB, pb.SplitBlobRequest()), (rpc.SPLICE_BLOB, pb.SpliceBlobRequest())):
        await failure(cas.call(method, request), grpc.StatusCode.UNIMPLEMENTED)


class Tree:
    """A directory tree in a store, made from its leaves up."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self.directories: dict[Digest, pb.Directory] = {}

    async def add(self, *children: Digest, files: int = 0) -> Digest:
        """Keep a Directory with *children* and *files*, and return its digest."""
        directory = pb.Directory(
            files=[
                pb.FileNode(name=f"file{number:06}", digest=digest_message(SHA256.empty)) for number in range(files)
            ],
            directories=[
                pb.DirectoryNode(name=f"dir{number:06}", digest=digest_message(child))
                for number, child in enumerate(children)
            ],
        )
        data = directory.SerializeToString(deterministic=True)
        digest = SHA256.digest(data)
        await write_blob(self._store, digest, data)
        self.directories[digest] = directory
        return digest


@pytest.fixture
def tree(stores: Stores) -> Tree:
    return Tree(stores["main"])


def sent(pages: list[pb.GetTreeResponse]) -> list[Digest]:
    return [SHA256.digest(one.SerializeToString(deterministic=True)) for page in pages for one in page.directories]


async def test_a_tree_comes_whole_breadth_first_and_each_directory_once(cas: CasWire, tree: Tree) -> None:
    """GT-01, GT-11."""
    shared = await tree.add(files=1)
    left, right = await tree.add(shared, files=2), await tree.add(shared, files=3)
    root = await tree.add(left, right)
    (page,) = await cas.get_tree(root)
    assert sent([page]) == [root, left, right, shared]
    assert page.next_page_token == ""


async def test_a_missing_root_is_not_found(cas: CasWire) -> None:
    """GT-02."""
    await failure(cas.get_tree(next(iter(some_blobs(1)))), NOT_FOUND)


async def test_missing_subtrees_are_left_out(cas: CasWire, tree: Tree) -> None:
    """GT-03."""
    there = await tree.add(files=1)
    root = await tree.add(next(iter(some_blobs(1))), there)
    assert sent(await cas.get_tree(root)) == [root, there]


async def test_pages_have_the_size_asked_for_and_can_be_resumed(cas: CasWire, tree: Tree) -> None:
    """GT-04, GT-05, GT-06."""
    root = await tree.add(*[await tree.add(files=number) for number in range(7)])
    whole = sent(await cas.get_tree(root))
    pages = await cas.get_tree(root, page_size=3)
    assert [len(page.directories) for page in pages] == [3, 3, 2]
    assert sent(pages) == whole
    assert [bool(page.next_page_token) for page in pages] == [True, True, False]
    resumed = await cas.get_tree(root, page_size=3, page_token=pages[0].next_page_token)
    assert resumed == pages[1:]


async def test_pages_fit_a_client_with_default_limits(cas: CasWire, tree: Tree) -> None:
    """GT-07: 20 MB of directories; the test's channel receives 4 MiB."""
    root = await tree.add(*[await tree.add(files=10_000 + number) for number in range(25)])
    pages = await cas.get_tree(root)
    assert sum(page.ByteSize() for page in pages) > 20_000_000
    assert len(sent(pages)) == 26


@pytest.mark.parametrize("token", ["zzz", "-1", "99", "1.5", "9" * 40])
async def test_a_page_token_that_is_none_is_refused(cas: CasWire, tree: Tree, token: str) -> None:
    """GT-08."""
    await failure(cas.get_tree(await tree.add(), page_token=token), INVALID)


async def test_a_negative_page_size_is_refused(cas: CasWire, tree: Tree) -> None:
    """GT-08."""
    await failure(cas.get_tree(await tree.add(), page_size=-1), INVALID)


async def test_a_root_that_is_no_directory_is_refused(cas: CasWire, stores: Stores) -> None:
    """GT-09."""
    digest = SHA256.digest(b"\xff" * 10)
    await write_blob(stores["main"], digest, b"\xff" * 10)
    await failure(cas.get_tree(digest), INVALID)
    await failure(cas.get_tree(digest._replace(size_bytes=2**40)), INVALID)


async def test_a_directory_that_names_no_digest_is_refused(cas: CasWire, tree: Tree) -> None:
    root = await tree.add(Digest(SHA256, "../../etc/passwd", 5))
    await failure(cas.get_tree(root), INVALID)


async def test_the_empty_directory_needs_no_upload(cas: CasWire) -> None:
    """GT-10."""
    (page,) = await cas.get_tree(SHA256.empty)
    assert list(page.directories) == [pb.Directory()]


async def test_deep_and_wide_trees_are_walked(cas: CasWire, tree: Tree) -> None:
    """GT-12."""
    deep = await tree.add(files=1)
    for _ in range(1000):
        deep = await tree.add(deep)
    wide = await tree.add(deep, *[await tree.add(files=number + 2) for number in range(100)])
    assert len(sent(await cas.get_tree(wide))) == 1102


async def test_a_tree_without_end_is_refused(cas: CasWire, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "MAX_DIRECTORIES", 10)
    root = await tree.add(*[await tree.add(files=number) for number in range(10)])
    await failure(cas.get_tree(root), grpc.StatusCode.RESOURCE_EXHAUSTED)


async def test_what_came_by_a_batch_is_in_the_store(cas: CasWire, stores: Stores) -> None:
    (digest, data), *_ = some_blobs(1).items()
    await cas.batch_update([(digest, data)])
    assert await read_blob(stores["main"], digest) == data
