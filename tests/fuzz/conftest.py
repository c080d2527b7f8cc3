"""One CAS for all properties: what one of them does to it must not show to another."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests.fuzz.cas_under_fire import STORES, CasUnderFire, cas_under_fire
from tests.fuzz.effort import look_longer

#: What the process may have grown by when a property has been looked at: what its allocator keeps (64 MiB) and some.
_GROWTH_BYTES = 128 * 1024 * 1024
#: Of its open files and threads, which come and go by the connection and by the pool.
_GROWTH_COUNT = 40
_GIVEN_BACK_SECONDS = 15.0
_HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr == "soak":
        look_longer()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a soak the same properties are looked at, longer."""
    if config.option.markexpr == "soak":
        for item in items:
            if _HERE in item.path.parents:
                item.add_marker("soak")


@pytest.fixture(scope="session")
def running() -> Iterator[Callable[[str], CasUnderFire]]:
    """Returns the CAS with a store, which is started when it is first asked for."""
    with ExitStack() as stack:

        @cache
        def start(store: str) -> CasUnderFire:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-"))
            cas = stack.enter_context(cas_under_fire(Path(directory), store))
            cas.assert_well()
            return cas

        yield start


@pytest.fixture(scope="module")
def cas(running: Callable[[str], CasUnderFire]) -> Iterator[CasUnderFire]:
    """The CAS as it is by default."""
    with _unharmed(running("segments")) as cas:
        yield cas


@pytest.fixture(scope="module", params=STORES)
def each_cas(running: Callable[[str], CasUnderFire], request: pytest.FixtureRequest) -> Iterator[CasUnderFire]:
    """The CAS with each of its stores."""
    with _unharmed(running(request.param)) as cas:
        yield cas


@contextmanager
def _unharmed(cas: CasUnderFire) -> Iterator[CasUnderFire]:
    """Assert that *cas* is as well after the properties of a module as before them."""
    before_bytes, files, threads = cas.anonymous_bytes(), cas.open_files(), cas.threads()
    yield cas
    cas.assert_well()
    # Memory that nobody uses is given back a little later.
    give_up = time.monotonic() + _GIVEN_BACK_SECONDS
    while cas.anonymous_bytes() - before_bytes > _GROWTH_BYTES and time.monotonic() < give_up:
        time.sleep(0.1)
    assert cas.anonymous_bytes() - before_bytes < _GROWTH_BYTES
    assert cas.open_files() - files < _GROWTH_COUNT
    assert cas.threads() - threads < _GROWTH_COUNT
