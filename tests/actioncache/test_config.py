"""What operators can say about the action cache."""

from __future__ import annotations

from typing import Any

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.errors import ConfigurationError
from gridwright.settings import validate_settings
from gridwright.store_settings.leaves import LmdbStoreSettings, MemoryStoreSettings
from gridwright.store_settings.store import CompletenessCheckingStoreSettings
from gridwright_actioncache.config import ActionCacheFile


def read(store: dict[str, Any], **more: Any) -> ActionCacheFile:
    return validate_settings(ActionCacheFile, {"actioncache": {"store": store}, **more}, source="grid.yaml")


def test_the_default_checks_results_kept_in_a_directory() -> None:
    checking = ActionCacheFile().actioncache.store.variant
    assert isinstance(checking, CompletenessCheckingStoreSettings)
    assert isinstance(checking.backend.variant, LmdbStoreSettings)


def test_a_store_is_written_as_one_key() -> None:
    memory = read({"memory": {"eviction_policy": {"max_count": 5}}}).actioncache.store.variant
    assert isinstance(memory, MemoryStoreSettings)
    assert memory.eviction_policy.policy == EvictionPolicy(max_count=5)
    checking = read({"completeness_checking": {"backend": {"lmdb": {"path": "x", "max_bytes": "4Gb"}}}})
    variant = checking.actioncache.store.variant
    assert isinstance(variant, CompletenessCheckingStoreSettings)
    lmdb = variant.backend.variant
    assert isinstance(lmdb, LmdbStoreSettings)
    assert lmdb.max_bytes == 4_000_000_000


CHECKED: dict[str, Any] = {"completeness_checking": {"backend": {"memory": {}}}}


REMOTE = {"grpc": {"endpoints": [{"address": "a:1"}], "store_type": "ac"}}


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ({}, "actioncache.store: write exactly one of memory, filesystem, segments, lmdb, "),
        ({"memory": {}, "lmdb": {}}, "given: memory, lmdb"),
        ({"redis_store": {}}, "actioncache.store.redis_store: unknown key"),
        ({"memory": {"max_count": 5}}, "actioncache.store.memory.max_count: unknown key"),
        ({"lmdb": {"max_bytes": "much"}}, "actioncache.store.lmdb.max_bytes: 'much' is not a size"),
        (
            {"completeness_checking": {"backend": CHECKED}},
            "actioncache.store.completeness_checking.backend.completeness_checking: results that were checked need no "
            "second check; write it once",
        ),
        (
            {"fast_slow": {"fast": {"memory": {}}, "slow": CHECKED}},
            "actioncache.store.fast_slow.slow.completeness_checking: checks only a part of the results; write it "
            "around the fast_slow",
        ),
        (
            {"completeness_checking": {"backend": {"lmdb": {}}, "cas_store": {"memory": {}}}},
            "actioncache.store.completeness_checking.cas_store: the CAS is another service; write ref_store or grpc, "
            "or leave it to endpoints.cas",
        ),
        (
            {"completeness_checking": {"backend": {"lmdb": {}}, "cas_store": {"ref_store": {"name": "X"}}}},
            "actioncache.store.completeness_checking.cas_store.ref_store.name: there is no store 'X'",
        ),
        ({"completeness_checking": {}}, "actioncache.store.completeness_checking.backend: required"),
        ({"verify": {"backend": {"memory": {}}}}, "actioncache.store.verify: is not for action results; their digest"),
        ({"segments": {"content_path": "x"}}, "actioncache.store.segments: is not for action results; write lmdb"),
        (
            {"expiring": {"backend": {"lmdb": {}}}},
            "actioncache.store.expiring: nothing would expire; write max_seconds",
        ),
        (
            {"expiring": {"backend": {"lmdb": {}}, "max_seconds": "1h", "jitter_seconds": "1h"}},
            "actioncache.store.expiring: jitter_seconds must be less than max_seconds (3600)",
        ),
        (
            {"grpc": {"endpoints": [{"address": "a:1"}]}},
            "actioncache.store.grpc.store_type: is not for action results; write ac",
        ),
        (
            {"size_partitioning": {"size": "1kb", "lower_store": {"memory": {}}, "upper_store": REMOTE}},
            "actioncache.store.size_partitioning.upper_store.grpc: an action cache elsewhere cannot be told to remove",
        ),
        (
            {"completeness_checking": {"backend": {"lmdb": {}}, "cas_store": REMOTE}},
            "actioncache.store.completeness_checking.cas_store.grpc.store_type: is no CAS; write cas",
        ),
        ({"noop": {}}, "actioncache.store: keeps no action results; a noop can only be a part of a store"),
    ],
)
def test_what_makes_no_sense_is_named_with_its_path(store: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(store)
    assert message in str(caught.value)


def test_the_cas_that_is_asked_is_the_one_that_is_served() -> None:
    checking = {"completeness_checking": {"backend": {"lmdb": {}}, "cas_store": {"ref_store": {"name": "A"}}}}
    stores = [{"name": "A", "memory": {}}, {"name": "B", "memory": {}}]
    read(checking, stores=stores)
    read(checking, stores=stores, cas={"store": {"ref_store": {"name": "A"}}})
    with pytest.raises(ConfigurationError, match=r"cas_store: A is not what the CAS serves; write cas.store: "):
        read(checking, stores=stores, cas={"store": {"ref_store": {"name": "B"}}})


def test_blobs_and_results_are_kept_apart() -> None:
    stores = [{"name": "A", "memory": {}}]
    message = "stores.A: keeps action results for actioncache.store and blobs for cas.store; write a store for each"
    with pytest.raises(ConfigurationError, match=message):
        read({"ref_store": {"name": "A"}}, stores=stores, cas={"store": {"ref_store": {"name": "A"}}})


READ_ONLY: dict[str, Any] = {"read_only": {"backend": {"memory": {}}}}


@pytest.mark.parametrize(
    "store",
    [
        READ_ONLY,
        {"completeness_checking": {"backend": {"expiring": {"backend": READ_ONLY, "max_seconds": "1d"}}}},
        {"ref_store": {"name": "SHARED"}},
        {"fast_slow": {"fast": {"memory": {}}, "slow": READ_ONLY}},
    ],
)
def test_a_store_that_takes_no_results_is_refused_while_clients_are_told_otherwise(store: dict[str, Any]) -> None:
    shared = [{"name": "SHARED", **READ_ONLY}]
    with pytest.raises(ConfigurationError, match=r"instances\.main\.result_writers: .* write scheduler"):
        read(store, stores=shared)
    read(store, stores=shared, instances=[{"name": "main", "result_writers": "scheduler"}])
    read(store, stores=shared, instances=[{"name": "main", "read_only": True, "execution": False}])


def test_a_half_that_takes_no_results_leaves_them_to_the_other_one() -> None:
    read({"fast_slow": {"fast": {"memory": {}}, "slow": READ_ONLY, "slow_direction": "read_only"}})
    read({"fast_slow": {"fast": READ_ONLY, "slow": {"memory": {}}}})
