"""Stores as operators compose them: what is read, and what is refused with which words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.errors import ConfigurationError
from gridwright.settings import GridSettings, ServerSettings, validate_settings
from gridwright.store_settings.leaves import MemoryStoreSettings
from gridwright.store_settings.named_stores import Root, Use
from gridwright.store_settings.store import ExistenceCacheStoreSettings, StoreSettings


class CasSettings(ServerSettings):
    """The section of a service that keeps blobs."""

    store: StoreSettings
    """Where."""


class CasFile(GridSettings):
    """A settings file as the CAS might read it."""

    cas: CasSettings
    """Its section."""

    @property
    def store_roots(self) -> Sequence[Root]:
        return (Root("cas.store", self.cas.store, Use.BLOBS),)


def read(store: dict[str, Any], *stores: dict[str, Any], **other: Any) -> CasFile:
    section = {"listen": "127.0.0.1:1", "admin": "127.0.0.1:2", "store": store}
    return validate_settings(CasFile, {"stores": stores, "cas": section, **other}, source="grid.yaml")


def refused(store: dict[str, Any], *stores: dict[str, Any], **other: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read(store, *stores, **other)
    first, *faults = str(caught.value).splitlines()
    assert first == "the settings in grid.yaml cannot be used:"
    return faults


def ref(name: str) -> dict[str, Any]:
    return {"ref_store": {"name": name}}


MEMORY: dict[str, Any] = {"memory": {}}
NOOP: dict[str, Any] = {"noop": {}}
GRPC = {"grpc": {"endpoints": [{"address": "grpc://cas:50071"}]}}


def files(path: str) -> dict[str, Any]:
    return {"filesystem": {"content_path": path}}


def test_the_words_of_an_eviction_policy_are_read_with_their_units() -> None:
    policy = {"max_bytes": "64kb", "max_seconds": "1h30m", "max_count": 7, "evict_bytes": "1KiB"}
    memory = read({"memory": {"eviction_policy": policy}}).cas.store.variant
    assert isinstance(memory, MemoryStoreSettings)
    assert memory.eviction_policy.policy == EvictionPolicy(64_000, 5400.0, 7, 1024)


@pytest.mark.parametrize("seconds", [7200, "7200", "2h", "1h60m", "7200s"])
def test_a_duration_is_written_in_many_ways(seconds: object) -> None:
    memory = read({"memory": {"eviction_policy": {"max_count": 1, "max_seconds": seconds}}}).cas.store.variant
    assert isinstance(memory, MemoryStoreSettings)
    assert memory.eviction_policy.max_seconds == 7200


def test_a_named_store_is_found_through_references() -> None:
    settings = read(ref("B"), {"name": "A", **MEMORY}, {"name": "B", "read_only": {"backend": ref("A")}})
    assert [store.name for store in settings.stores] == ["A", "B"]
    assert [store.kind for store in settings.stores] == ["memory", "read_only"]


def test_a_cache_over_another_cas_may_believe_for_a_while() -> None:
    cache = read({"existence_cache": {"backend": GRPC, "eviction_policy": {"max_seconds": 60}}}).cas.store.variant
    assert isinstance(cache, ExistenceCacheStoreSettings)
    grpc = cache.backend.grpc
    assert grpc is not None
    assert grpc.endpoints[0].address == "cas:50071"


CASES: dict[str, tuple[dict[str, Any], list[dict[str, Any]], str]] = {
    "an unknown kind": ({"disk": {}}, [], "cas.store.disk: unknown key; remove it, or look for a typing error"),
    "a fault in a named store": (
        ref("A"),
        [{"name": "A", "verify": {}}],
        "stores.A.verify.backend: required, and not given",
    ),
    "a reference to nowhere": (
        ref("A"),
        [{"name": "B", **MEMORY}],
        "cas.store.ref_store.name: there is no store 'A' in the list `stores`; known are: B",
    ),
    "a reference without a list": (
        ref("A"),
        [],
        "cas.store.ref_store.name: there is no store 'A' in the list `stores`; known are: none, since there is no list "
        "`stores`",
    ),
    "a store that holds itself": (
        ref("A"),
        [{"name": "A", "read_only": {"backend": ref("A")}}],
        "stores.A: holds itself (A → A); write what is meant in place of one ref_store",
    ),
    "a name given twice": (
        ref("A"),
        [{"name": "A", **MEMORY}, {"name": "A", **MEMORY}],
        "stores.A: the name is given twice; give one of the two another",
    ),
    "one directory for two": (
        {"fast_slow": {"fast": files("a"), "slow": files("./a")}},
        [],
        "cas.store.fast_slow.slow.filesystem.content_path: is the directory of "
        "cas.store.fast_slow.fast.filesystem.content_path as well; give each its own",
    ),
    "a directory inside another": (
        {"fast_slow": {"fast": files("a"), "slow": files("a/b")}},
        [],
        "cas.store.fast_slow.slow.filesystem.content_path: one inside the other, this and "
        "cas.store.fast_slow.fast.filesystem.content_path; give each a directory of its own",
    ),
    "the directory of a store that nobody uses": (
        files("a"),
        [{"name": "A", **files("a")}],
        "cas.store.filesystem.content_path: is the directory of stores.A.filesystem.content_path as well; "
        "give each its own",
    ),
    "compression over grpc": (
        {"compression": {"backend": GRPC}},
        [],
        "cas.store.compression.backend.grpc: another CAS refuses bytes that are not those of their digest; let it "
        "compress, and write grpc without it",
    ),
    "compression over a reference to grpc": (
        {"compression": {"backend": ref("A")}},
        [{"name": "A", **GRPC}],
        "stores.A.grpc: another CAS refuses bytes that are not those of their digest; let it compress, and write grpc "
        "without it",
    ),
    "compression twice": (
        {"compression": {"backend": {"compression": {"backend": MEMORY}}}},
        [],
        "cas.store.compression.backend.compression: compresses a second time what was compressed; write it once",
    ),
    "verify under compression": (
        {"compression": {"backend": {"verify": {"backend": MEMORY}}}},
        [],
        "cas.store.compression.backend.verify: would check the compressed bytes; write {verify: {backend: "
        "{compression: …}}}",
    ),
    "an existence cache over grpc": (
        {"existence_cache": {"backend": {"fast_slow": {"fast": MEMORY, "slow": ref("A")}}}},
        [{"name": "A", **GRPC}],
        "cas.store.existence_cache.eviction_policy.max_seconds: required over grpc, since another CAS does not tell "
        "what it removes; write, say, 600",
    ),
    "an existence cache over what is kept in grpc alone": (
        {
            "existence_cache": {
                "backend": {"fast_slow": {"fast": GRPC, "slow": MEMORY, "slow_direction": "read_only"}},
            }
        },
        [],
        "cas.store.existence_cache.eviction_policy.max_seconds: required over grpc, since another CAS does not tell "
        "what it removes; write, say, 600",
    ),
    "a size of nothing": (
        {"size_partitioning": {"size": 0, "lower_store": NOOP, "upper_store": MEMORY}},
        [],
        "cas.store.size_partitioning.size: 0 sends everything to upper_store; write that store alone, or a size such "
        "as 64kb",
    ),
    "two halves that take nothing": (
        {"fast_slow": {"fast": MEMORY, "slow": files("a"), "fast_direction": "read_only", "slow_direction": "get"}},
        [],
        "cas.store.fast_slow: neither half takes uploads, so none would be kept; write slow_direction: both, or put "
        "the whole into read_only if uploads are to be refused",
    ),
    "a slow half that keeps nothing": (
        {"fast_slow": {"fast": MEMORY, "slow": ref("A")}},
        [{"name": "A", **NOOP}],
        "cas.store.fast_slow.slow: keeps nothing, and decides what is there, so nothing would be; write what is in "
        "`fast` alone",
    ),
    "a noop as the whole": (
        {"verify": {"backend": NOOP}},
        [],
        "cas.store: keeps no blobs; a noop can only be a part of a store",
    ),
    "a check of nothing": (
        {"verify": {"backend": MEMORY, "verify_size": False, "verify_hash": False}},
        [],
        "cas.store.verify: verify_size and verify_hash are both off, so it checks nothing; write only its backend",
    ),
    "memory without a bound": (
        {"memory": {"eviction_policy": {"max_seconds": 60}}},
        [],
        "cas.store.memory: without a bound it grows until the process dies; write eviction_policy: {max_bytes: 1Gb}, "
        "or max_count",
    ),
    "segments without a bound": (
        {"segments": {"content_path": "a", "eviction_policy": {}}},
        [],
        "cas.store.segments: the size of its files depends on max_bytes; write eviction_policy: {max_bytes: 100Gb}",
    ),
    "segments in next to no room": (
        {"segments": {"content_path": "a", "eviction_policy": {"max_bytes": "1Mb"}}},
        [],
        "cas.store.segments: its index leaves no room for blobs; write eviction_policy: {max_bytes: 16Mb} or more",
    ),
    "more evicted than there is": (
        {"memory": {"eviction_policy": {"max_bytes": 10, "evict_bytes": 10}}},
        [],
        "cas.store.memory.eviction_policy: evict_bytes (10) must be less than max_bytes (10), or all goes at once",
    ),
    "a duration that is none": (
        {"memory": {"eviction_policy": {"max_seconds": "soon"}}},
        [],
        "cas.store.memory.eviction_policy.max_seconds: 'soon' is not a duration; write a number of seconds, or '90s', "
        "'1h30m', '7d'",
    ),
    "a size that is negative": (
        {"memory": {"eviction_policy": {"max_bytes": -1}}},
        [],
        "cas.store.memory.eviction_policy.max_bytes: input should be greater than or equal to 0",
    ),
    "an endpoint with TLS": (
        {"grpc": {"endpoints": [{"address": "grpcs://cas:50071"}]}},
        [],
        "cas.store.grpc.endpoints.0.address: 'grpcs://cas:50071': TLS between services is not offered yet; write "
        "grpc://cas:50071",
    ),
    "several endpoints": (
        {"grpc": {"endpoints": [{"address": "a:1"}, {"address": "b:1"}]}},
        [],
        "cas.store.grpc: endpoints: write one; for several, a name that stands for all of them, as dns:///NAME:PORT",
    ),
    "an action cache as a CAS": (
        {"grpc": {"endpoints": [{"address": "a:1"}], "store_type": "ac"}},
        [],
        "cas.store.grpc.store_type: is not for blobs; write cas",
    ),
    "blobs in the store of results": ({"lmdb": {}}, [], "cas.store.lmdb: is not for blobs; write segments"),
    "results checked in the CAS": (
        {"completeness_checking": {"backend": MEMORY}},
        [],
        "cas.store.completeness_checking: is not for blobs; write it in actioncache.store",
    ),
    "blobs written once": (
        {"write_once": {"backend": MEMORY}},
        [],
        "cas.store.write_once: is not for blobs; the blob of a digest is always the same; write its backend alone",
    ),
}


@pytest.mark.parametrize(("store", "stores", "said"), CASES.values(), ids=CASES)
def test_a_composition_that_makes_no_sense_is_refused_with_what_to_write_instead(
    store: dict[str, Any], stores: list[dict[str, Any]], said: str
) -> None:
    assert said in refused(store, *stores)


def test_those_in_a_circle_are_named_and_not_those_who_lead_there() -> None:
    circle = [{"name": "A", "read_only": {"backend": ref("B")}}, {"name": "B", "read_only": {"backend": ref("A")}}]
    faults = refused(ref("C"), *circle, {"name": "C", "read_only": {"backend": ref("A")}})
    assert [fault.split(":")[0] for fault in faults] == ["stores.A", "stores.B"]


def test_a_store_is_not_for_blobs_and_results() -> None:
    faults = refused(ref("A"), {"name": "A", **MEMORY}, actioncache={"store": ref("A")})
    assert faults == [
        "stores.A: keeps blobs for cas.store and action results for actioncache.store; write a store for each"
    ]


def test_cas_and_action_cache_have_directories_of_their_own() -> None:
    [fault] = refused(files("a"), actioncache={"store": {"lmdb": {"path": "a"}}})
    assert fault.startswith(
        "actioncache.store.lmdb.path: is the directory of cas.store.filesystem.content_path as well"
    )


def test_faults_of_another_service_are_left_to_it() -> None:
    read(MEMORY, actioncache={"store": {"lmdb": {"size": "much"}}})
    read(MEMORY, actioncache={"store": ref("nowhere")})
    read(MEMORY, actioncache={"store": NOOP})
    read(MEMORY, actioncache="what is this")
