"""What operators do with an action cache, over gRPC."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gridwright.auth.identity import Identity, Role
from gridwright.digest import Digest
from gridwright.errors import InvalidRequest, NotFound, PermissionDenied
from gridwright.instances import Instances, InstanceSettings
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_pb2 import ActionResult
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ActionCacheClient
from gridwright.protos.gridwright.actioncache.v1 import operator_pb2 as pb
from gridwright.protos.gridwright.actioncache.v1.operator_rpc import ActionCacheOperatorClient
from gridwright.testing.clock import FakeClock
from gridwright.wire.in_process_channel import InProcessChannel
from gridwright.wire.rpc import Channel
from gridwright_actioncache.results.expiring import ExpiringResultStore
from gridwright_actioncache.results.lmdb_store import LmdbStore
from gridwright_actioncache.results.provenance import Provenance, with_provenance
from gridwright_actioncache.servicers.operator import ActionCacheOperatorServicer
from tests.actioncache.cas import FakeCas
from tests.actioncache.contract import an_action
from tests.actioncache.documents import a_blob, message
from tests.actioncache.result_stores import a_memory
from tests.actioncache.service import actioncache, get, result_of, update

Explained = pb.ExplainResponse


async def explain(channel: Channel, action: Digest) -> pb.ExplainResponse:
    request = pb.ExplainRequest(instance_name="main", action_digest=message(action))
    return await ActionCacheOperatorClient(channel).explain(request, timeout=20)


async def purge(channel: Channel, **what: object) -> pb.PurgeResponse:
    request = pb.PurgeRequest(instance_name="main", **what)  # type: ignore[arg-type]
    *_, last = [response async for response in ActionCacheOperatorClient(channel).purge(request, timeout=60)]
    return last


async def test_a_hit_is_explained_with_where_it_came_from(channel: Channel, cas: FakeCas) -> None:
    action, before = an_action(), time.time()
    result = result_of(await cas.keep(b"output"))
    await update(ActionCacheClient(channel), action, result)
    answer = await explain(channel, action)
    assert answer.verdict == Explained.HIT
    assert answer.action_result == result.SerializeToString()
    assert (answer.provenance.subject, answer.provenance.role) == ("anonymous", "writer")
    assert answer.provenance.worker == "worker-1"
    assert before - 1 < answer.provenance.written_at.ToMicroseconds() / 1e6 < time.time() + 1


async def test_a_miss_is_explained_by_what_is_missing(channel: Channel, cas: FakeCas) -> None:
    assert (await explain(channel, an_action())).verdict == Explained.ABSENT
    action, lost = an_action(), [a_blob(), a_blob()]
    await update(ActionCacheClient(channel), action, result_of(await cas.keep(b"there"), *lost))
    answer = await explain(channel, action)
    assert answer.verdict == Explained.INCOMPLETE
    assert answer.missing_blobs == 2
    assert {one.hash for one in answer.missing_blob_digests} == {digest.hash for digest in lost}
    broken = an_action()
    await update(ActionCacheClient(channel), broken, _with_tree(await cas.keep(b"\xff is no Tree")))
    assert (await explain(channel, broken)).verdict == Explained.MALFORMED
    gone = an_action()
    tree = a_blob()
    await update(ActionCacheClient(channel), gone, _with_tree(tree))
    answer = await explain(channel, gone)
    assert answer.verdict == Explained.INCOMPLETE
    assert [one.hash for one in answer.missing_blob_digests] == [tree.hash]


def _with_tree(tree: Digest) -> ActionResult:
    result = result_of()
    result.output_directories.add(path="d", tree_digest=message(tree))
    return result


async def test_a_result_that_is_too_old_is_explained() -> None:
    store = ExpiringResultStore(a_memory(), FakeClock(), minimum_timestamp=2000.0)
    action = an_action()
    await store.put("main", action, with_provenance(b"", Provenance("ann", "writer", 1000.0, "")))
    answer = await explain(_in_process(store, Role.READER), action)
    assert answer.verdict == Explained.EXPIRED
    assert answer.provenance.subject == "ann"


async def test_what_was_removed_is_a_miss(channel: Channel) -> None:
    client = ActionCacheClient(channel)
    gone, kept = an_action(), an_action()
    for action in (gone, kept):
        await update(client, action, result_of())
    request = pb.RemoveRequest(instance_name="main", action_digests=[message(gone)])
    await ActionCacheOperatorClient(channel).remove(request, timeout=20)
    with pytest.raises(NotFound):
        await get(client, gone)
    await get(client, kept)


async def test_a_purge_revokes_what_one_worker_made_and_nothing_else(channel: Channel) -> None:
    client = ActionCacheClient(channel)
    bad, good = [an_action() for _ in range(5)], an_action()
    for action in bad:
        await update(client, action, result_of())
    other = result_of()
    other.execution_metadata.worker = "worker-2"
    await update(client, good, other)
    assert await purge(channel, worker="worker-1", dry_run=True) == pb.PurgeResponse(examined=6, removed=5)
    await get(client, bad[0])
    assert await purge(channel, worker="worker-1") == pb.PurgeResponse(examined=6, removed=5)
    for action in bad:
        with pytest.raises(NotFound):
            await get(client, action)
    await get(client, good)
    assert await purge(channel, worker="worker-1") == pb.PurgeResponse(examined=1)


async def test_a_purge_of_everything_must_be_meant(channel: Channel) -> None:
    with pytest.raises(InvalidRequest, match="say which results are to go"):
        await purge(channel)


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.ADMIN])
async def test_only_admins_remove(role: Role) -> None:
    channel = _in_process(a_memory(), role)
    with pytest.raises(PermissionDenied, match=r"lacks the role 'admin'.*auth\.local_operators"):
        await purge(channel, worker="w")
    with pytest.raises(PermissionDenied):
        await ActionCacheOperatorClient(channel).remove(pb.RemoveRequest(instance_name="main"), timeout=5)
    if role is not Role.READER:
        with pytest.raises(PermissionDenied):
            await explain(channel, an_action())


async def test_local_callers_are_no_operators_unless_the_settings_say_so(run: Path, cas: FakeCas) -> None:
    async with actioncache(run, local_operators=False) as channel:
        with pytest.raises(PermissionDenied):
            await purge(channel, worker="w")


async def test_a_purge_goes_through_many_pages_on_lmdb(tmp_path: Path) -> None:
    async with LmdbStore.open(tmp_path, max_bytes=10**9, clock=FakeClock()) as store:
        bad = with_provenance(b"\x20\x01", Provenance("scheduler", "scheduler", 1000.0, "worker-1"))
        good = with_provenance(b"\x20\x01", Provenance("scheduler", "scheduler", 1000.0, "worker-2"))
        for action, document in ((an_action(), bad if number % 3 else good) for number in range(300)):
            await store.put("main", action, document)
        assert await purge(_in_process(store, Role.ADMIN), worker="worker-1") == pb.PurgeResponse(
            examined=300, removed=200
        )
        assert await purge(_in_process(store, Role.ADMIN), since={"seconds": 1}) == pb.PurgeResponse(
            examined=100, removed=100
        )


def _in_process(store: object, role: Role) -> Channel:
    servicer = ActionCacheOperatorServicer(Instances([InstanceSettings(name="main")]), store)  # type: ignore[arg-type]
    return InProcessChannel(servicer, identity=Identity("ann", frozenset({role})))
