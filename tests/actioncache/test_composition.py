"""Settings become stores of results."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from gridwright.auth.authenticator import LoopbackAuthenticator
from gridwright.errors import GridwrightError, NotFound
from gridwright.instances import Instances
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ActionCache
from gridwright.settings import Address, validate_settings
from gridwright.store_settings.named_stores import NamedStores
from gridwright.wire.call import Call
from gridwright.wire.server import ServerOptions, serving
from gridwright_actioncache.composition import Composition
from gridwright_actioncache.config import ActionCacheFile
from gridwright_actioncache.lookups import Lookups
from gridwright_actioncache.metrics import ResultStoreMetrics
from gridwright_actioncache.results.store import ResultStore
from tests.actioncache.contract import an_action


class Opener:
    """Opens the store of a settings file."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.registry = CollectorRegistry()
        self._metrics = ResultStoreMetrics(self.registry, Lookups())
        self._stack = stack

    async def open(self, store: dict[str, Any], *stores: dict[str, Any]) -> ResultStore:
        instances_of = [{"name": "main", "result_writers": "scheduler"}]
        data = {"stores": stores, "instances": instances_of, "actioncache": {"store": store}}
        settings = validate_settings(ActionCacheFile, data, source="the test")
        instances = Instances(settings.instances)
        named = NamedStores(settings.stores)
        composition = Composition(named, instances, settings.endpoints.cas, self._metrics, self._stack)
        return await composition.open(settings.actioncache.store)


@pytest.fixture
async def opener() -> AsyncIterator[Opener]:
    async with AsyncExitStack() as stack:
        yield Opener(stack)


MEMORY: dict[str, Any] = {"memory": {}}
FILES = {"name": "FILES", "filesystem": {"content_path": "results", "temp_path": "temp"}}
LMDB = {"name": "LMDB", "lmdb": {"path": "lmdb", "max_bytes": "10MiB"}}


@pytest.mark.parametrize(
    "nest",
    [
        {"ref_store": {"name": "FILES"}},
        {"fast_slow": {"fast": MEMORY, "slow": {"ref_store": {"name": "FILES"}}}},
        {"size_partitioning": {"size": "1kb", "lower_store": MEMORY, "upper_store": {"ref_store": {"name": "LMDB"}}}},
        {"write_once": {"backend": {"metered": {"name": "m", "backend": {"ref_store": {"name": "LMDB"}}}}}},
        {"completeness_checking": {"backend": MEMORY, "cas_store": {"grpc": {"endpoints": [{"address": "a:1"}]}}}},
    ],
    ids=str,
)
async def test_stores_nest_in_many_ways(
    opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nest: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    store = await opener.open(nest, FILES, LMDB)
    small, large, unknown = an_action(), an_action(), an_action()
    # Neither names an output, so nobody has to be asked for one.
    results = {small: b"\x20\x01", large: b"\x2a\x84\x10" + bytes(2052)}
    for action, result in results.items():
        await store.put("main", action, result)
    assert await store.get_many("main", [small, large, unknown]) == results


async def test_a_store_that_is_read_only_refuses_results(opener: Opener) -> None:
    store = await opener.open({"read_only": {"backend": MEMORY}})
    with pytest.raises(GridwrightError):
        await store.put("main", an_action(), b"")


@pytest.mark.parametrize(
    ("expiring", "found"),
    [
        ({"max_seconds": "1h", "jitter_seconds": "10m"}, False),
        ({"minimum_timestamp": "1970-01-01T00:03:00Z"}, False),
        ({"minimum_timestamp": "1970-01-01T00:01:00"}, True),
    ],
)
async def test_a_result_expires_as_the_settings_say(opener: Opener, expiring: dict[str, Any], found: bool) -> None:
    store = await opener.open({"expiring": {"backend": MEMORY, **expiring}})
    result = pb.ActionResult()
    result.execution_metadata.worker_completed_timestamp.FromSeconds(120)
    action = an_action()
    await store.put("main", action, result.SerializeToString())
    assert (action in await store.get_many("main", [action])) is found


async def test_a_metered_store_is_seen_in_the_metrics(opener: Opener) -> None:
    store = await opener.open({"metered": {"name": "fast", "backend": MEMORY}})
    action = an_action()
    await store.put("main", action, b"\x20\x01")
    await store.get_many("main", [action, an_action()])
    metrics = generate_latest(opener.registry).decode()
    for outcome in ("hit", "miss"):
        assert f'gridwright_actioncache_store_lookups_total{{outcome="{outcome}",store="fast"}} 1.0' in metrics
    assert 'gridwright_actioncache_store_bytes_total{direction="written",store="fast"} 2.0' in metrics


async def test_an_action_cache_elsewhere_answers_for_this_one(opener: Opener, tmp_path: Path) -> None:
    results: dict[str, pb.ActionResult] = {}

    class Elsewhere(ActionCache):
        async def get_action_result(self, request: pb.GetActionResultRequest, call: Call) -> pb.ActionResult:
            assert request.instance_name == "theirs"
            if request.action_digest.hash not in results:
                raise NotFound("no")
            return results[request.action_digest.hash]

        async def update_action_result(self, request: pb.UpdateActionResultRequest, call: Call) -> pb.ActionResult:
            results[request.action_digest.hash] = request.action_result
            return request.action_result

    listen = Address("127.0.0.1:0")
    options = ServerOptions([listen], LoopbackAuthenticator(), CollectorRegistry())
    async with serving([Elsewhere()], options) as ports:
        remote = {"endpoints": [{"address": f"127.0.0.1:{ports[0]}"}], "store_type": "ac", "instance_name": "theirs"}
        store = await opener.open({"fast_slow": {"fast": MEMORY, "slow": {"grpc": remote}}})
        known, unknown = an_action(), an_action()
        await store.put("main", known, b"\x20\x07")
        assert set(results) == {known.hash}
        assert await store.get_many("main", [known, unknown]) == {known: b"\x20\x07"}
        metrics = generate_latest(opener.registry).decode()
        assert 'gridwright_actioncache_dependency_up{dependency="action cache"} 1.0' in metrics
