"""What operators can say about the action cache."""

from __future__ import annotations

from typing import Any

import pytest

from gridwright.errors import ConfigurationError
from gridwright.settings import validate_settings
from gridwright_actioncache.config import ActionCacheFile, CompletenessCheckingSettings, LmdbSettings, MemorySettings


def read(store: dict[str, Any]) -> ActionCacheFile:
    return validate_settings(ActionCacheFile, {"actioncache": {"store": store}}, source="grid.yaml")


def test_the_default_checks_results_kept_in_a_directory() -> None:
    checking = ActionCacheFile().actioncache.store.variant
    assert isinstance(checking, CompletenessCheckingSettings)
    assert isinstance(checking.backend.variant, LmdbSettings)


def test_a_store_is_written_as_one_key() -> None:
    memory = read({"memory": {"max_count": 5}}).actioncache.store.variant
    assert memory == MemorySettings(max_count=5)
    checking = read({"completeness_checking": {"backend": {"lmdb": {"path": "x", "max_bytes": "4Gb"}}}})
    variant = checking.actioncache.store.variant
    assert isinstance(variant, CompletenessCheckingSettings)
    lmdb = variant.backend.variant
    assert isinstance(lmdb, LmdbSettings)
    assert lmdb.max_bytes == 4_000_000_000


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ({}, "actioncache.store: write exactly one of memory, lmdb, completeness_checking"),
        ({"memory": {}, "lmdb": {}}, "given: memory, lmdb"),
        ({"redis": {}}, "actioncache.store.redis: unknown key"),
        ({"memory": {"max_count": 0}}, "actioncache.store.memory.max_count: "),
        ({"lmdb": {"max_bytes": "much"}}, "actioncache.store.lmdb.max_bytes: 'much' is not a size"),
        (
            {"completeness_checking": {"backend": {"completeness_checking": {"backend": {"memory": {}}}}}},
            "write it once",
        ),
        ({"completeness_checking": {}}, "actioncache.store.completeness_checking.backend: required"),
    ],
)
def test_what_makes_no_sense_is_named_with_its_path(store: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(store)
    assert message in str(caught.value)
