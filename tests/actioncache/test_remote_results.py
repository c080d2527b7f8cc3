"""Another action cache as a store: the leaf `grpc`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gridwright.digest import Digest, DigestFunction
from gridwright.errors import (
    ActionResultNotFound,
    GridwrightError,
    InternalError,
    PermissionDenied,
    Unavailable,
    Unimplemented,
    UnknownInstance,
)
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ActionCache
from gridwright.protos.gridwright.actioncache.v1 import operator_pb2
from gridwright.protos.gridwright.actioncache.v1.operator_rpc import ActionCacheOperator
from gridwright.wire.call import Call
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright.wire.in_process_channel import InProcessChannel
from gridwright_actioncache.remote_results import RemoteResultStore
from gridwright_actioncache.results.provenance import Provenance, split_document, with_provenance
from gridwright_actioncache.results.store import ResultStore
from tests.actioncache.byte_keeping_cache import ByteKeepingCache
from tests.actioncache.contract import ReplacingContract, an_action


class OtherCache(ActionCache):
    """An action cache of somebody else's."""

    def __init__(self) -> None:
        self.results: dict[tuple[str, int, str, int], pb.ActionResult] = {}
        self.error: GridwrightError | None = None

    async def get_action_result(self, request: pb.GetActionResultRequest, call: Call) -> pb.ActionResult:
        if self.error:
            raise self.error
        found = self.results.get(_key(request))
        if found is None:
            raise ActionResultNotFound(DigestFunction.SHA256.digest(b""))
        return found

    async def update_action_result(self, request: pb.UpdateActionResultRequest, call: Call) -> pb.ActionResult:
        if self.error:
            raise self.error
        self.results[_key(request)] = request.action_result
        return request.action_result


class OtherOperator(ActionCacheOperator):
    """The same where it is a Gridwright."""

    def __init__(self, cache: OtherCache) -> None:
        self._cache = cache

    async def explain(self, request: operator_pb2.ExplainRequest, call: Call) -> operator_pb2.ExplainResponse:
        raise Unimplemented("not asked")

    async def remove(self, request: operator_pb2.RemoveRequest, call: Call) -> operator_pb2.RemoveResponse:
        for one in request.action_digests:
            key = (request.instance_name, int(request.digest_function), one.hash, one.size_bytes)
            self._cache.results.pop(key, None)
        return operator_pb2.RemoveResponse()

    def purge(self, request: operator_pb2.PurgeRequest, call: Call) -> AsyncIterator[operator_pb2.PurgeResponse]:
        raise Unimplemented("not asked")


def _key(request: pb.GetActionResultRequest | pb.UpdateActionResultRequest) -> tuple[str, int, str, int]:
    digest = request.action_digest
    return (request.instance_name, int(request.digest_function), digest.hash, digest.size_bytes)


@pytest.fixture
def cache() -> OtherCache:
    return OtherCache()


@pytest.fixture
def store(cache: OtherCache) -> RemoteResultStore:
    return RemoteResultStore(InProcessChannel(cache, OtherOperator(cache)), instance=None, timeout_seconds=5)


class TestRemoteResultStore(ReplacingContract):
    """It keeps bytes as far as the cache behind it does; where results came from does not travel, nor does a walk."""

    @pytest.fixture
    async def store(self) -> AsyncIterator[ResultStore]:
        async with ByteKeepingCache().serving() as target, GrpcChannel(target) as channel:
            yield RemoteResultStore(channel, instance=None, timeout_seconds=10)

    async def test_fields_keep_their_order_and_numbers_their_length(self, store: ResultStore) -> None:
        action, result = an_action(), b"\xfa\x3e\x05later\x20\x87\x00"
        assert pb.ActionResult.FromString(result).SerializeToString() != result
        await store.put("main", action, result)
        assert await store.get_many("main", [action]) == {action: result}


async def test_what_is_no_result_is_a_fault_there_and_neither_kept_nor_a_miss() -> None:
    cache = ByteKeepingCache()
    async with cache.serving() as target, GrpcChannel(target) as channel:
        store = RemoteResultStore(channel, instance=None, timeout_seconds=10)
        action = an_action()
        await store.put("main", action, b"\x20\x07")
        cache.spoil(b"<html>")
        with pytest.raises(InternalError, match="no ActionResult"):
            await store.get_many("main", [action])


async def test_many_are_asked_for_at_once(store: RemoteResultStore) -> None:
    actions = [an_action() for _ in range(300)]
    for action in actions:
        await store.put("main", action, b"\x20\x01")
    assert await store.get_many("main", actions) == dict.fromkeys(actions, b"\x20\x01")


async def test_the_instance_there_may_have_another_name(cache: OtherCache) -> None:
    store = RemoteResultStore(InProcessChannel(cache), instance="theirs", timeout_seconds=5)
    action = an_action()
    await store.put("main", action, b"\x20\x07")
    assert [key[0] for key in cache.results] == ["theirs"]
    assert action in await store.get_many("anything", [action])


async def test_our_word_of_where_it_came_from_stays_here_and_the_metadata_travels(store: RemoteResultStore) -> None:
    result = pb.ActionResult()
    result.execution_metadata.worker = "worker-7"
    action = an_action()
    document = with_provenance(result.SerializeToString(), Provenance("ann", "writer", 1.0, "worker-7"))
    await store.put("main", action, document)
    found = await store.get_many("main", [action])
    assert split_document(found[action]) == (result.SerializeToString(), None)


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (Unavailable("down"), Unavailable),
        (UnknownInstance("main", ["theirs"]), InternalError),
        (PermissionDenied("no"), PermissionDenied),
    ],
)
async def test_an_error_there_is_never_a_miss_nor_our_callers_fault(
    store: RemoteResultStore, cache: OtherCache, error: GridwrightError, becomes: type[GridwrightError]
) -> None:
    cache.error = error
    with pytest.raises(becomes):
        await store.get_many("main", [an_action()])
    with pytest.raises(becomes):
        await store.put("main", an_action(), b"\x20\x01")


async def test_a_gridwright_removes_what_it_is_told_to(store: RemoteResultStore) -> None:
    gone: list[Digest] = [an_action(), an_action(DigestFunction.BLAKE3)]
    kept = an_action()
    for action in (*gone, kept):
        await store.put("main", action, b"\x20\x01")
    await store.remove("main", [*gone, an_action()])
    assert await store.get_many("main", [*gone, kept]) == {kept: b"\x20\x01"}


async def test_what_the_protocol_does_not_offer_is_said(cache: OtherCache) -> None:
    store = RemoteResultStore(InProcessChannel(cache), instance=None, timeout_seconds=5)
    with pytest.raises(Unimplemented):
        await store.remove("main", [an_action()])
    with pytest.raises(Unimplemented, match="cannot say what it holds"):
        async for _ in store.walk("main"):
            pass
