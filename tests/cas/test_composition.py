"""Settings become stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from gridwright.blobs.store import read_blob, write_blob
from gridwright.digest import DigestFunction
from gridwright.errors import ConfigurationError, DigestMismatch, PermissionDenied
from gridwright.settings import validate_settings
from gridwright.store_settings.named_stores import NamedStores
from gridwright_cas.composition import Composition, StorageDomain, _domain_path
from gridwright_cas.config import CasFile
from gridwright_cas.store_metrics import StoreMetrics

MAIN, OTHER = StorageDomain("main", "main"), StorageDomain("other", "other")
BLOB = b"some bytes"
DIGEST = DigestFunction.SHA256.digest(BLOB)
LARGE = bytes(range(256)) * 1000
LARGE_DIGEST = DigestFunction.SHA256.digest(LARGE)


class Opener:
    """Opens the store of a settings file."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.registry = CollectorRegistry()
        self._metrics = StoreMetrics(self.registry)
        self._stack = stack

    def composition(self, store: dict[str, Any], *stores: dict[str, Any]) -> tuple[Composition, CasFile]:
        settings = validate_settings(CasFile, {"stores": stores, "cas": {"store": store}}, source="the test")
        return Composition(NamedStores(settings.stores), self._metrics, self._stack), settings


@pytest.fixture
async def opener() -> AsyncIterator[Opener]:
    async with AsyncExitStack() as stack:
        yield Opener(stack)


def production(directory: Path) -> list[dict[str, Any]]:
    """Return the store of a CAS as it is composed for production elsewhere."""
    files = {
        "content_path": str(directory / "content"),
        "temp_path": str(directory / "temp"),
        "eviction_policy": {"max_bytes": "1Gb"},
    }
    memory = {"memory": {"eviction_policy": {"max_bytes": "1gb", "max_count": 100_000}}}
    fast = {"size_partitioning": {"size": "64kb", "lower_store": memory, "upper_store": {"noop": {}}}}
    slow = {"compression": {"compression_algorithm": {"lz4": {}}, "backend": {"filesystem": files}}}
    verify = {"backend": {"fast_slow": {"fast": fast, "slow": slow}}}
    return [{"name": "CAS_MAIN_STORE", "existence_cache": {"backend": {"verify": verify}}}]


async def test_a_composition_for_production_serves(opener: Opener, tmp_path: Path) -> None:
    composition, settings = opener.composition({"ref_store": {"name": "CAS_MAIN_STORE"}}, *production(tmp_path))
    store = await composition.open(settings.cas.store, MAIN)
    kept = await store.put_many({DIGEST: BLOB, LARGE_DIGEST: LARGE, LARGE_DIGEST._replace(size_bytes=3): b"abc"})
    assert [type(error) for error in kept.values()] == [type(None), type(None), DigestMismatch]
    assert await store.missing({DIGEST, LARGE_DIGEST}) == set()
    assert await read_blob(store, LARGE_DIGEST) == LARGE
    assert await read_blob(store, DIGEST) == BLOB
    assert list((tmp_path / "content" / "main").iterdir())
    for part in ("ExistenceCachedStore", "VerifiedStore", "FastSlowStore", "SizePartitionedStore", "FilesystemStore"):
        assert part in repr(store)


MEMORY: dict[str, Any] = {"memory": {}}
NOOP: dict[str, Any] = {"noop": {}}


@pytest.mark.parametrize(
    "nest",
    [
        {"compression": {"compression_algorithm": {"zstd": {"level": 3}}, "backend": MEMORY}},
        {
            "existence_cache": {
                "backend": {"size_partitioning": {"size": 20, "lower_store": MEMORY, "upper_store": MEMORY}}
            }
        },
        {"existence_cache": {"backend": {"metered": {"name": "m", "backend": MEMORY}}}},
        {"existence_cache": {"backend": {"fast_slow": {"fast": NOOP, "slow": MEMORY, "fast_direction": "get"}}}},
        {
            "size_partitioning": {
                "size": "1kb",
                "lower_store": MEMORY,
                "upper_store": {"compression": {"backend": MEMORY}},
            }
        },
        {"verify": {"verify_size": False, "backend": {"existence_cache": {"backend": {"ref_store": {"name": "A"}}}}}},
        {
            "fast_slow": {
                "fast": {"ref_store": {"name": "A"}},
                "slow": {"verify": {"backend": {"ref_store": {"name": "B"}}}},
            }
        },
    ],
    ids=str,
)
async def test_stores_nest_in_many_ways(opener: Opener, tmp_path: Path, nest: dict[str, Any]) -> None:
    named = [{"name": "A", **MEMORY}, {"name": "B", "filesystem": {"content_path": str(tmp_path)}}]
    composition, settings = opener.composition(nest, *named)
    store = await composition.open(settings.cas.store, MAIN)
    assert await store.missing({DIGEST, LARGE_DIGEST}) == {DIGEST, LARGE_DIGEST}
    assert await store.put_many({DIGEST: BLOB, LARGE_DIGEST: LARGE}) == {DIGEST: None, LARGE_DIGEST: None}
    assert await store.missing({DIGEST, LARGE_DIGEST}) == set()
    assert await store.get_many([DIGEST, LARGE_DIGEST]) == {DIGEST: BLOB, LARGE_DIGEST: LARGE}


async def test_a_named_store_is_opened_once_for_each_storage_domain(opener: Opener, tmp_path: Path) -> None:
    files = {"name": "A", "filesystem": {"content_path": str(tmp_path)}}
    composition, settings = opener.composition({"ref_store": {"name": "A"}}, files)
    store = await composition.open(settings.cas.store, MAIN)
    assert await composition.open(settings.cas.store, MAIN) is store
    other = await composition.open(settings.cas.store, OTHER)
    await write_blob(store, DIGEST, BLOB)
    assert await other.missing({DIGEST}) == {DIGEST}


async def test_each_decorator_is_put_in_its_place(opener: Opener) -> None:
    read_only = {"read_only": {"backend": {"metered": {"name": "m", "backend": {"memory": {}}}}}}
    composition, settings = opener.composition(read_only)
    store = await composition.open(settings.cas.store, MAIN)
    with pytest.raises(PermissionDenied):
        await write_blob(store, DIGEST, BLOB)


async def test_a_metered_store_is_seen_in_the_metrics(opener: Opener) -> None:
    composition, settings = opener.composition({"metered": {"name": "fast", "backend": {"memory": {}}}})
    store = await composition.open(settings.cas.store, MAIN)
    await write_blob(store, DIGEST, BLOB)
    await read_blob(store, DIGEST)
    await store.missing({DIGEST, LARGE_DIGEST})
    metrics = generate_latest(opener.registry).decode()
    for outcome in ("present", "absent", "found", "kept"):
        assert f'gridwright_cas_store_blobs_total{{outcome="{outcome}",storage="main",store="fast"}} 1.0' in metrics
    assert 'gridwright_cas_store_bytes_total{direction="written",storage="main",store="fast"} 10.0' in metrics


async def test_segments_are_opened_and_seen_in_the_metrics(opener: Opener, tmp_path: Path) -> None:
    segments = {"content_path": str(tmp_path), "eviction_policy": {"max_bytes": "100MiB"}, "scrub_bytes_per_second": 0}
    composition, settings = opener.composition({"verify": {"backend": {"segments": segments}}})
    store = await composition.open(settings.cas.store, MAIN)
    await store.put_many({DIGEST: BLOB, LARGE_DIGEST: LARGE})
    assert await read_blob(store, LARGE_DIGEST) == LARGE
    metrics = generate_latest(opener.registry).decode()
    label = f'{{directory="{tmp_path}/main"}}'
    assert f"gridwright_cas_segments_evicted_blobs_total{label} 0.0" in metrics
    assert f"gridwright_cas_segments_max_bytes{label} 1.048576e+08" in metrics
    assert f"gridwright_cas_segments_used_bytes{label}" in metrics


@pytest.mark.parametrize(("first", "second"), [("segments", "filesystem"), ("filesystem", "segments")])
async def test_the_directory_of_another_kind_of_store_is_left_alone(
    opener: Opener, tmp_path: Path, first: str, second: str
) -> None:
    for kind in (first, second):
        composition, settings = opener.composition({kind: {"content_path": str(tmp_path)}})
        if kind == first:
            await write_blob(await composition.open(settings.cas.store, MAIN), DIGEST, BLOB)
        else:
            with pytest.raises(ConfigurationError, match=f"main holds the blobs of a `{first}` store: write {first}, "):
                await composition.open(settings.cas.store, MAIN)


async def test_storage_domains_never_share_an_instance_of_another_cas(opener: Opener) -> None:
    endpoints = [{"address": "127.0.0.1:1"}]
    composition, settings = opener.composition({"grpc": {"endpoints": endpoints}})
    await composition.open(settings.cas.store, MAIN)
    await composition.open(settings.cas.store, OTHER)
    composition, settings = opener.composition({"grpc": {"endpoints": endpoints, "instance_name": "x"}})
    await composition.open(settings.cas.store, MAIN)
    with pytest.raises(ConfigurationError, match="'main' and 'other' would share instance 'x' of 127"):
        await composition.open(settings.cas.store, OTHER)


def test_each_storage_domain_has_a_directory_of_its_own_in_the_content_path() -> None:
    domains = ["", "main", "a/b", "a%2Fb", "..", ".", "x.y", "ü"]
    paths = [_domain_path(Path("cas"), domain) for domain in domains]
    assert len(set(paths)) == len(domains)
    assert all(path.parent == Path("cas") and ".." not in path.parts for path in paths)
    assert paths[1] == Path("cas/main")
