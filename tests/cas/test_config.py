"""What an operator writes about the CAS, and what happens when it makes no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gridwright.errors import ConfigurationError
from gridwright.settings import load_settings, validate_settings
from gridwright_cas.app import _domain_path
from gridwright_cas.config import (
    CasFile,
    Durability,
    FilesystemStoreSettings,
    MemoryStoreSettings,
    VerifyStoreSettings,
)

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


def test_the_file_of_a_grid_is_understood() -> None:
    data = yaml.safe_load(GRID)
    del data["scheduler"]
    verify = validate_settings(CasFile, data, source="the test").cas.store.variant
    assert isinstance(verify, VerifyStoreSettings)
    files = verify.backend.variant
    assert isinstance(files, FilesystemStoreSettings)
    assert (files.content_path, files.eviction_policy.max_bytes) == (Path("cas"), 20_000_000_000)


def test_sections_of_other_services_are_left_to_them(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    assert load_settings(CasFile, path=tmp_path / "grid.yaml", environ={}).cas.listen == "unix:run/cas.sock"


def test_without_a_word_blobs_are_verified_and_kept_in_files() -> None:
    settings = CasFile().cas
    verify = settings.store.variant
    assert isinstance(verify, VerifyStoreSettings)
    files = verify.backend.variant
    assert isinstance(files, FilesystemStoreSettings)
    assert files.durability is Durability.FULL
    assert (settings.listen, settings.admin) == ("127.0.0.1:50071", "127.0.0.1:9071")


def test_a_variant_may_be_left_to_its_defaults() -> None:
    assert isinstance(read({"store": {"memory": {}}}).cas.store.variant, MemoryStoreSettings)


@pytest.mark.parametrize(
    ("cas", "message"),
    [
        ({"store": {"disk": {}}}, "cas.store.disk: unknown key"),
        ({"store": {}}, "cas.store: write exactly one of memory, filesystem, verify; given: none"),
        ({"store": {"memory": {}, "filesystem": {}}}, "cas.store: write exactly one of .* given: memory, filesystem"),
        ({"store": {"memory": None}}, "cas.store: write exactly one of"),
        ({"store": {"verify": {}}}, "cas.store.verify.backend: required"),
        ({"store": {"verify": {"backend": {"memory": {"size": 1}}}}}, "cas.store.verify.backend.memory.size: unknown"),
        (
            {"store": {"memory": {"eviction_policy": {"max_bytes": "many"}}}},
            "cas.store.memory.eviction_policy.max_bytes: 'many' is not a size",
        ),
        ({"store": {"memory": {"eviction_policy": {"max_bytes": 0}}}}, "cas.store.memory.eviction_policy.max_bytes"),
        ({"store": {"filesystem": {"durability": "high"}}}, "cas.store.filesystem.durability"),
        ({"listen": "nowhere"}, "cas.listen: 'nowhere' is not an address"),
    ],
)
def test_what_makes_no_sense_is_named_with_its_path(cas: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read(cas)


def test_each_storage_domain_has_a_directory_of_its_own_in_the_content_path() -> None:
    domains = ["", "main", "a/b", "a%2Fb", "..", ".", "x.y", "ü"]
    paths = [_domain_path(Path("cas"), domain) for domain in domains]
    assert len(set(paths)) == len(domains)
    assert all(path.parent == Path("cas") and ".." not in path.parts for path in paths)
    assert paths[1] == Path("cas/main")
