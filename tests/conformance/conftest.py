"""The endpoint that the suite is run against: a whole grid, both directly and through its gateway, or any other."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.small_grid import small_grid as running_small_grid
from tests.conformance.target import Kind, Target, connected
from tests.journeys.grid import Grid, running_grid

#: One grid for all tests: what some of them need special is an instance of its own.
INSTANCES = [
    {"name": "main"},
    {"name": "neighbour"},
    {"name": "team/x/y"},
    {"name": "cache-only", "execution": False},
    {"name": "blake3-only", "digest_functions": ["blake3"]},
    {"name": "sha256-only", "digest_functions": ["sha256"]},
    {"name": "limited", "storage": "main", "max_blob_bytes": "100kb"},
    {"name": "frozen", "storage": "main", "read_only": True, "execution": False},
    {"name": "scheduler-writes", "result_writers": "scheduler"},
    {"name": "strict", "storage": "main", "strict_results": True},
]
_SUITE = Path(__file__).parent
_BEFORE_ANY_UPLOAD = ("test_brb_06", "test_fmb_03", "test_gt_10", "test_lif_01")
#: What every process of the grid gets of it.
ENVIRONMENT = {"GRIDWRIGHT_INSTANCES": json.dumps(INSTANCES)}
#: Where each RPC service is that the CAS does not serve.
_ELSEWHERE = {"ActionCache": "actioncache", "Execution": "scheduler", "Operations": "scheduler", "Bots": "scheduler"}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption("--endpoint", metavar="HOST:PORT", help="run the conformance suite against this endpoint alone")
    group.addoption("--instance", default="", metavar="NAME", help="the instance name to send to --endpoint")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        kinds = ["endpoint"] if _endpoint(metafunc.config) else ["direct", "gateway"]
        metafunc.parametrize("kind", kinds, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests of the empty blob come before those that upload it: a server may know it only since then."""
    places = [place for place, item in enumerate(items) if item.path.parent == _SUITE]
    ours = [items[place] for place in places]
    ours.sort(key=lambda item: not item.name.startswith(_BEFORE_ANY_UPLOAD))
    for place, item in zip(places, ours, strict=True):
        items[place] = item


def _endpoint(config: pytest.Config) -> str | None:
    endpoint: str | None = config.getoption("endpoint", None)
    return endpoint


@pytest.fixture(scope="package")
def conformance_grid() -> Iterator[Grid]:
    """The grid under test."""
    with running_grid("--slots", "2", environment=ENVIRONMENT) as grid:
        yield grid


@pytest.fixture
def own_grid(request: pytest.FixtureRequest) -> Grid:
    """The grid under test, for what can be seen, or done, only on its machine."""
    if _endpoint(request.config):
        pytest.skip("not testable here: this needs the server's own machine")
    grid: Grid = request.getfixturevalue("conformance_grid")
    return grid


@pytest.fixture(scope="package")
def known_capabilities() -> dict[tuple[str, str], pb.ServerCapabilities]:
    """What was answered before, by kind of target and instance."""
    return {}


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> Kind:
    """The way to the endpoint that a test takes."""
    kind: Kind = request.param
    return kind


@pytest.fixture
async def target(
    kind: Kind, request: pytest.FixtureRequest, known_capabilities: dict[tuple[str, str], pb.ServerCapabilities]
) -> AsyncIterator[Target]:
    """The endpoint, over a connection of its own; what the grid says during a test that fails is shown."""
    config = request.config
    if endpoint := _endpoint(config):
        grid, others, instance = None, {}, config.getoption("instance")
        address = endpoint
    else:
        grid = request.getfixturevalue("conformance_grid")
        address = grid.endpoint if kind == "gateway" else _socket(grid, "cas")
        others = {} if kind == "gateway" else _elsewhere(grid)
        instance = "main"
    mark = grid.mark() if grid else 0
    async with connected(kind, address, instance, others) as target:
        if (known := known_capabilities.get((kind, instance))) is None:
            known = known_capabilities[kind, instance] = await target.ask_capabilities()
        yield replace(target, capabilities=known)
    if grid:
        print(grid.tail(after=mark))


def _elsewhere(grid: Grid) -> dict[str, str]:
    return {name: _socket(grid, where) for name, where in _ELSEWHERE.items()}


def _socket(grid: Grid, service: str) -> str:
    return f"unix:{grid.data}/run/{service}.sock"


@pytest.fixture
async def cache_only(target: Target) -> Target:
    """An instance without execution."""
    return await _special(target, "cache-only")


@pytest.fixture
async def neighbour(target: Target) -> Target:
    """Another instance that shares nothing with the first."""
    return await _special(target, "neighbour")


@pytest.fixture
async def nested(target: Target) -> Target:
    """An instance whose name holds slashes."""
    return await _special(target, "team/x/y")


@pytest.fixture
async def blake3_only(target: Target) -> Target:
    """An instance of one digest function, BLAKE3."""
    return await _special(target, "blake3-only")


@pytest.fixture
async def sha256_only(target: Target) -> Target:
    """An instance of one digest function, SHA256."""
    return await _special(target, "sha256-only")


@pytest.fixture
async def limited(target: Target) -> Target:
    """An instance with the blobs of the first one, and a limit of 100,000 bytes for new ones."""
    return await _special(target, "limited")


@pytest.fixture
async def read_only(target: Target) -> Target:
    """An instance with the blobs of the first one, which nobody can write to."""
    return await _special(target, "frozen")


@pytest.fixture
async def scheduler_writes(target: Target) -> Target:
    """An instance in which no client writes the action cache."""
    return await _special(target, "scheduler-writes")


@pytest.fixture
async def strict(target: Target) -> Target:
    """An instance with the blobs of the first one, which takes a result only with all that it names."""
    return await _special(target, "strict")


@pytest.fixture
async def execution_only(request: pytest.FixtureRequest) -> AsyncIterator[Target]:
    """An endpoint that only executes, which a scheduler's own address is."""
    if _endpoint(request.config):
        pytest.skip("not testable here: this needs an endpoint that only executes")
    grid = request.getfixturevalue("conformance_grid")
    async with connected("direct", _socket(grid, "scheduler"), "main") as target:
        yield replace(target, capabilities=await target.ask_capabilities())


@pytest.fixture(scope="package")
def small_grid(request: pytest.FixtureRequest) -> Iterator[Grid]:
    """A grid of small stores, which tests fill, break and restart."""
    if _endpoint(request.config):
        pytest.skip("not testable here: this needs a small store, which the test breaks")
    with running_small_grid() as grid:
        yield grid


@pytest.fixture
async def small(kind: Kind, request: pytest.FixtureRequest) -> AsyncIterator[Target]:
    """An instance of the small grid."""
    grid: Grid = request.getfixturevalue("small_grid")
    mark = grid.mark()
    address, others = (grid.endpoint, {}) if kind == "gateway" else (_socket(grid, "cas"), _elsewhere(grid))
    async with connected(kind, address, "main", others) as target:
        yield replace(target, capabilities=await target.ask_capabilities())
    print(grid.tail(after=mark))


@pytest.fixture
async def full(small: Target) -> Target:
    """An instance whose store has room for nothing more than the test that fills it."""
    return await small.at("full")


async def _special(target: Target, instance: str) -> Target:
    if target.kind == "endpoint":
        pytest.skip("not testable here: this needs an instance made for it")
    return await target.at(instance)
