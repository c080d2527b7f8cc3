import asyncio
import signal
from collections.abc import Callable

import pytest

from gridwright_cli.up.keeper import Keeper, Running, ServiceGaveUp
from gridwright_cli.up.services import Service

SERVICE = Service("cas", colour=34, stop_seconds=0.05)


class FakeRun(Running):
    """A run that ends when the test says so, or by the signals that it obeys."""

    def __init__(self, *, obeys: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGKILL)) -> None:
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._obeys = obeys
        self.signals: list[signal.Signals] = []

    pid = 4711
    ran_seconds = 0.0

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def signal(self, number: signal.Signals) -> None:
        self.signals.append(number)
        if number in self._obeys:
            self.end(-number)

    def end(self, status: int) -> None:
        if not self._ended.done():
            self._ended.set_result(status)


class Bench:
    """A keeper whose service's runs are fakes."""

    def __init__(self, make: Callable[[], FakeRun] = FakeRun) -> None:
        self.runs: asyncio.Queue[FakeRun] = asyncio.Queue()
        self.said: list[str] = []
        self.died = asyncio.Event()
        self.hurry = asyncio.Event()
        self._make = make
        self.keeper = Keeper(SERVICE, self._start, self.said.append, self.died)
        self.keeping = asyncio.create_task(self.keeper.keep())

    def _start(self, service: Service) -> Running:
        run = self._make()
        self.runs.put_nowait(run)
        return run


async def test_a_service_that_dies_is_started_again_and_the_user_hears_of_it() -> None:
    bench = Bench()
    (await bench.runs.get()).end(-9)
    second = await bench.runs.get()
    assert bench.said == ["cas died (killed by SIGKILL); restarting it in 0.1 s"]
    assert bench.died.is_set()
    await bench.keeper.stop(bench.hurry)
    assert second.signals == [signal.SIGTERM]
    await bench.keeping


async def test_a_service_that_was_stopped_is_not_started_again() -> None:
    bench = Bench()
    await bench.runs.get()
    await bench.keeper.stop(bench.hurry)
    await bench.keeping
    assert bench.runs.empty()
    assert bench.said == []


async def test_settings_that_cannot_be_used_end_the_keeping() -> None:
    bench = Bench()
    (await bench.runs.get()).end(78)
    with pytest.raises(ServiceGaveUp, match="cas") as caught:
        await bench.keeping
    assert caught.value.status == 78
    await bench.keeper.stop(bench.hurry)


async def test_a_service_that_does_not_end_in_time_is_killed() -> None:
    bench = Bench(lambda: FakeRun(obeys=(signal.SIGKILL,)))
    run = await bench.runs.get()
    await bench.keeper.stop(bench.hurry)
    assert run.signals == [signal.SIGTERM, signal.SIGKILL]
    assert bench.said == ["cas does not end; killing it"]
    await bench.keeping


async def test_stopping_ends_the_wait_before_a_restart() -> None:
    bench = Bench()
    (await bench.runs.get()).end(1)
    await bench.died.wait()
    await bench.keeper.stop(bench.hurry)
    async with asyncio.timeout(1):
        await bench.keeping
    assert bench.runs.empty()


async def test_stopping_what_was_never_started_is_no_error() -> None:
    bench = Bench()
    await bench.keeper.stop(bench.hurry)
    await bench.keeping
    assert bench.runs.empty()
