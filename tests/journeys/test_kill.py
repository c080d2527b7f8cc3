"""Each service is killed in the middle of a build, which must neither hang, nor fail, nor believe what is not so."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest

from gridwright.errors import GridwrightError
from tests.journeys.build_client import Action, BuildClient, build_client
from tests.journeys.grid import SERVICE_NAMES, Grid, running_grid

ACTIONS = 200
#: So many must have ended before the kill: the build is under way by then.
BEFORE_KILL = 20
IN_FLIGHT = 20
BUILD_SECONDS = 110


@pytest.fixture(scope="module")
def module_grid() -> Iterator[Grid]:
    """A grid whose services may be killed."""
    with running_grid("--slots", "4") as grid:
        yield grid


@pytest.fixture
def grid(module_grid: Grid) -> Iterator[Grid]:
    mark = module_grid.mark()
    yield module_grid
    print(module_grid.tail(after=mark))


class Build:
    """200 small actions, the bytes of whose outputs are known beforehand."""

    def __init__(self, client: BuildClient) -> None:
        self._client = client
        self._name = uuid4()
        self._in_flight = asyncio.Semaphore(IN_FLIGHT)
        self.under_way = asyncio.Event()
        self._ended = 0

    async def run(self) -> list[GridwrightError]:
        """Return why actions failed; a wrong byte in an output is no such reason, but an assertion."""
        results = await asyncio.gather(*(self._one(number) for number in range(ACTIONS)))
        return [result for result in results if result is not None]

    async def _one(self, number: int) -> GridwrightError | None:
        source = f"{self._name} {number}\n".encode()
        script = "sha256sum < source > sum; cat source sum > both; sleep 0.01"
        action = Action(["/bin/sh", "-c", script], {"source": source}, ["both", "sum"])
        sum_ = f"{hashlib.sha256(source).hexdigest()}  -\n".encode()
        async with self._in_flight:
            try:
                outputs = await self._client.build(action)
            except GridwrightError as error:
                return error
            finally:
                self._ended += 1
                if self._ended == BEFORE_KILL:
                    self.under_way.set()
        assert outputs == {"both": source + sum_, "sum": sum_}
        return None


@pytest.fixture
async def client(grid: Grid) -> AsyncIterator[BuildClient]:
    async with build_client(grid.endpoint) as client:
        yield client


@pytest.mark.timeout(300)
@pytest.mark.parametrize("service", SERVICE_NAMES)
async def test_a_build_outlasts_the_death_of_a_service(grid: Grid, client: BuildClient, service: str) -> None:
    before = grid.pid(service)
    build = Build(client)
    async with asyncio.timeout(BUILD_SECONDS):
        running = asyncio.create_task(build.run())
        await build.under_way.wait()
        mark = grid.kill(service)
        failures = await running
    assert failures == []

    await asyncio.to_thread(grid.wait_well_again, mark)
    said = f"{service} died (killed by SIGKILL); restarting it in"
    grid.wait_for(lambda line: said in line, "to say that it died", after=mark)
    assert grid.pid(service) != before
    async with asyncio.timeout(BUILD_SECONDS):
        assert await build.run() == []


@pytest.mark.timeout(300)
async def test_what_was_built_before_all_services_died_is_still_right_after(grid: Grid, client: BuildClient) -> None:
    build = Build(client)
    async with asyncio.timeout(BUILD_SECONDS):
        assert await build.run() == []
    mark = grid.mark()
    for service in SERVICE_NAMES:
        grid.kill(service)
    await asyncio.to_thread(grid.wait_well_again, mark)
    async with asyncio.timeout(BUILD_SECONDS):
        assert await build.run() == []
