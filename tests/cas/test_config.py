"""What an operator writes about the CAS, and what happens when it makes no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gridwright.errors import ConfigurationError
from gridwright.settings import load_settings, validate_settings
from gridwright.store_settings.leaves import FilesystemStoreSettings, MemoryStoreSettings, SegmentsStoreSettings
from gridwright.store_settings.policy import Durability
from gridwright.store_settings.store import StoreSettings, VerifyStoreSettings
from gridwright_cas.config import CasFile

GRID = """
instances: [{name: main}]
endpoints: {cas: "unix:run/cas.sock"}
cas:
  listen: unix:run/cas.sock
  admin: unix:run/cas-admin.sock
  store: {verify: {backend: {filesystem: {content_path: cas, eviction_policy: {max_bytes: 20Gb}}}}}
scheduler: {whatever: it says}
"""


def read(cas: dict[str, Any]) -> CasFile:
    return validate_settings(CasFile, {"cas": cas}, source="the test")


def verified(store: StoreSettings) -> StoreSettings:
    verify = store.variant
    assert isinstance(verify, VerifyStoreSettings)
    assert (verify.verify_size, verify.verify_hash) == (True, True)
    return verify.backend


def test_the_file_of_a_grid_is_understood() -> None:
    files = verified(validate_settings(CasFile, yaml.safe_load(GRID), source="the test").cas.store).variant
    assert isinstance(files, FilesystemStoreSettings)
    assert (files.content_path, files.eviction_policy.max_bytes) == (Path("cas"), 20_000_000_000)


def test_sections_of_other_services_are_left_to_them(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    assert load_settings(CasFile, path=tmp_path / "grid.yaml", environ={}).cas.listen == "unix:run/cas.sock"


def test_without_a_word_blobs_are_verified_and_kept_in_segments() -> None:
    settings = CasFile().cas
    segments = verified(settings.store).variant
    assert isinstance(segments, SegmentsStoreSettings)
    assert segments.durability is Durability.FULL
    assert segments.eviction_policy.max_bytes == 20_000_000_000
    assert (segments.min_retention_seconds, segments.strict_retention) == (10_800, False)
    assert (settings.listen, settings.admin) == ("127.0.0.1:50071", "127.0.0.1:9071")


def test_a_variant_may_be_left_to_its_defaults() -> None:
    assert isinstance(read({"store": {"memory": {}}}).cas.store.variant, MemoryStoreSettings)


@pytest.mark.parametrize(
    ("cas", "message"),
    [
        ({"store": {"disk": {}}}, "cas.store.disk: unknown key"),
        ({"store": {}}, "cas.store: write exactly one of memory, filesystem, segments, .*; given: none"),
        ({"store": {"memory": {}, "noop": {}}}, "cas.store: write exactly one of .* given: memory, noop"),
        ({"store": {"memory": None}}, "cas.store: write exactly one of"),
        ({"store": {"verify": {}}}, "cas.store.verify.backend: required"),
        ({"store": {"verify": {"backend": {"memory": {"size": 1}}}}}, "cas.store.verify.backend.memory.size: unknown"),
        ({"store": {"filesystem": {}}}, "cas.store.filesystem.content_path: required"),
        (
            {"store": {"memory": {"eviction_policy": {"max_bytes": "many"}}}},
            "cas.store.memory.eviction_policy.max_bytes: 'many' is not a size",
        ),
        ({"store": {"filesystem": {"content_path": "a", "durability": "high"}}}, "cas.store.filesystem.durability"),
        ({"store": {"ref_store": {"name": "A"}}}, "cas.store.ref_store.name: there is no store 'A'"),
        ({"listen": "nowhere"}, "cas.listen: 'nowhere' is not an address"),
    ],
)
def test_what_makes_no_sense_is_named_with_its_path(cas: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read(cas)
