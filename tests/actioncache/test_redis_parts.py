"""The parts of the store in Redis that decide, without a Redis."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridwright.digest import DigestFunction
from gridwright.errors import GridwrightError, Unavailable
from gridwright.testing.clock import FakeClock
from gridwright_actioncache.results.redis_bound import at_most
from gridwright_actioncache.results.redis_circuit import Circuit
from gridwright_actioncache.results.redis_database import Forget, Keep, RedisChange, RedisDatabase
from gridwright_actioncache.results.redis_lane import RedisLane
from gridwright_actioncache.results.redis_options import RedisOptions
from gridwright_actioncache.results.redis_records import (
    DamagedValue,
    from_key,
    from_value,
    key_prefix,
    to_key,
    to_value,
)
from gridwright_actioncache.results.redis_writes import PendingWrites, WriteStatistics


def test_a_server_is_asked_again_ever_more_seldom_until_it_does_its_work() -> None:
    circuit = Circuit()
    assert circuit.failed("down", now=10.0)
    assert not circuit.failed("still down", now=11.0)
    assert [circuit.next_attempt_seconds() for _ in range(6)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0]
    assert circuit.open_seconds(13.0) == 3.0
    circuit.revived()
    assert not circuit.is_open
    # It says that it is there, and fails again.
    circuit.failed("down", now=14.0)
    assert circuit.next_attempt_seconds() == 1.0
    circuit.revived()
    circuit.succeeded()
    circuit.failed("down", now=15.0)
    assert circuit.next_attempt_seconds() == 0.05


@given(instance=st.text(max_size=30), other=st.text(max_size=30), function=st.sampled_from(list(DigestFunction)))
def test_a_key_tells_its_action_and_no_instance_has_that_of_another(
    instance: str, other: str, function: DigestFunction
) -> None:
    digest = function.digest(b"action")
    start = key_prefix("grid", instance)
    key = to_key("grid", instance, digest)
    assert from_key(key, start) == digest
    assert not set(start) & set("*?[]\\{}")
    if other != instance:
        assert not key.startswith(key_prefix("grid", other).encode())


@pytest.mark.parametrize("rest", ["", "probe", "sha256:abc:1", "sha256:ABC:1", f"sha3:{'a' * 64}:1", "sha256::1"])
def test_a_key_that_is_no_actions_is_passed_over(rest: str) -> None:
    start = key_prefix("grid", "main")
    assert from_key(f"{start}{rest}".encode(), start) is None


@given(result=st.binary(max_size=100), position=st.integers(0), bit=st.integers(0, 7))
def test_a_value_is_whole_and_that_of_its_key(result: bytes, position: int, bit: int) -> None:
    value = to_value(b"key", result)
    assert from_value(b"key", value) == result
    damaged = bytearray(value)
    damaged[position % len(value)] ^= 1 << bit
    for key, one in ((b"key", bytes(damaged)), (b"other", value), (b"key", value[:-1]), (b"key", b"")):
        with pytest.raises(DamagedValue):
            from_value(key, one)


async def test_a_call_that_hangs_is_given_up() -> None:
    with pytest.raises(TimeoutError):
        async with at_most(0.02):
            await asyncio.Event().wait()


async def test_what_arrives_while_the_process_cannot_run_has_arrived_in_time() -> None:
    here, there = socket.socketpair()
    here.setblocking(False)
    with here, there:
        async with at_most(0.02):
            answer = asyncio.create_task(asyncio.get_running_loop().sock_recv(here, 1))
            await asyncio.sleep(0)
            there.send(b"x")
            time.sleep(0.1)  # noqa: ASYNC251  # as a machine that is busy does
            assert await answer == b"x"


class Writer:
    """Takes changes, unless it is told not to."""

    def __init__(self) -> None:
        self.groups: list[Sequence[RedisChange]] = []
        self.errors: list[GridwrightError] = []

    async def __call__(self, changes: Sequence[RedisChange]) -> Sequence[GridwrightError | None]:
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)
        self.groups.append(changes)
        return [None] * len(changes)


def pending(writer: Writer, clock: FakeClock) -> tuple[PendingWrites, WriteStatistics]:
    statistics = WriteStatistics()
    return PendingWrites(writer, clock, statistics, retry_seconds=10), statistics


async def test_a_write_that_fails_once_is_made_without_anybody_hearing_of_it() -> None:
    writer = Writer()
    writes, statistics = pending(writer, FakeClock())
    writer.errors = [Unavailable("a hiccup")]
    [outcome] = writes.add([Keep(b"k", b"v", 0)])
    assert await asyncio.wait_for(outcome, 10) is None
    assert statistics == WriteStatistics(retried=1, dropped=0)
    await writes.aclose()


async def test_a_write_that_fails_on_is_told_of_early_and_dropped_late() -> None:
    writer, clock = Writer(), FakeClock()
    writes, statistics = pending(writer, clock)
    writer.errors = [Unavailable(f"down {number}") for number in range(5)]
    [outcome] = writes.add([Keep(b"k", b"v", 0)])
    assert str(await asyncio.wait_for(outcome, 10)) == "down 1"
    assert (len(writes), statistics.dropped) == (1, 0)
    clock.advance(10)
    async with asyncio.timeout(10):
        while len(writes):
            writes.hurry()
            await asyncio.sleep(0)
    assert statistics.dropped == 1
    await writes.aclose()
    assert writer.groups == []


async def test_of_changes_of_one_key_the_last_is_made_also_when_an_earlier_one_comes_back() -> None:
    writer = Writer()
    writes, _ = pending(writer, FakeClock())
    writer.errors = [Unavailable("down")]
    [first] = writes.add([Keep(b"k", b"1", 0)])
    await asyncio.sleep(0)
    [second] = writes.add([Forget(b"k")])
    assert [await asyncio.wait_for(one, 10) for one in (first, second)] == [None, None]
    assert [list(group) for group in writer.groups] == [[Forget(b"k")]]
    await writes.aclose()


async def test_who_waits_when_the_service_stops_hears_so() -> None:
    writer = Writer()
    writes, statistics = pending(writer, FakeClock())
    writer.errors = [Unavailable("down")] * 2
    futures = writes.add([Keep(b"k", b"v", 0), Forget(b"l")])
    async with asyncio.timeout(10):
        while writes.trouble is None:  # noqa: ASYNC110  # what fails unheard raises no event
            await asyncio.sleep(0)
    await writes.aclose()
    assert [str(await one) for one in futures] == ["the service is stopping"] * 2
    assert statistics.dropped == 2


class _Fickle(RedisDatabase):
    """Does not answer, and is found to be back in a way that nobody has thought of."""

    def __init__(self) -> None:
        self.revivals = 0
        self.is_up = False

    def server_of(self, key: bytes) -> str:
        return "r"

    async def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | GridwrightError | None]:
        if not self.is_up:
            raise Unavailable("down")
        return [b"v" for _ in keys]

    async def change(self, changes: Sequence[RedisChange]) -> Sequence[GridwrightError | None]:
        return [None for _ in changes]

    async def revive(self, server: str) -> None:
        self.revivals += 1
        if self.revivals == 1:
            raise ArithmeticError("unexpected")
        self.is_up = True

    async def keys(self, prefix: str) -> AsyncIterator[Sequence[bytes]]:
        return
        yield

    async def aclose(self) -> None: ...


async def test_a_server_is_asked_again_also_when_asking_has_failed_in_an_unexpected_way() -> None:
    database = _Fickle()
    unexpected: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unexpected.append(context["exception"]))
    lane = RedisLane("r", database, lambda _: None, FakeClock(), RedisOptions(), WriteStatistics())
    async with asyncio.timeout(20):
        while not database.is_up:
            with pytest.raises(Unavailable):
                await lane.get([b"k"])
            await asyncio.sleep(0.01)
        while lane.circuit.is_open:  # noqa: ASYNC110  # the task that closes it raises no event here
            await asyncio.sleep(0.01)
    assert await lane.get([b"k"]) == {b"k": b"v"}
    await lane.aclose()
    gc.collect()
    assert [type(error) for error in unexpected] == [ArithmeticError]
