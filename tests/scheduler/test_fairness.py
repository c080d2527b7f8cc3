"""The order in which queued actions are given to bots, in the tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gridwright.errors import ResourceExhausted
from gridwright_scheduler.database.admissions import Admissions
from gridwright_scheduler.database.opening import open_database
from gridwright_scheduler.database.queue_room import QueueRoom
from gridwright_scheduler.database.retention import PRIORITIES, forget_priorities
from gridwright_scheduler.queue.matching import IdleWorker
from gridwright_scheduler.queue.names import BotKey
from gridwright_scheduler.queue.platform import Offer, Requirements
from gridwright_scheduler.queue.settling import Retry
from gridwright_scheduler.queue.states import ActionState
from tests.scheduler.bare_queue import LINUX, MAC, BareQueue, idle, request
from tests.scheduler.databases import Tables, database_in


@pytest.fixture
async def queue(tmp_path: Path, one_replica: None) -> AsyncIterator[BareQueue]:
    async with open_database(database_in(tmp_path)) as database:
        yield BareQueue(database)


def builds(given: list[str]) -> list[str]:
    return [name.partition(".")[0] for name in given]


async def test_a_build_of_ten_is_not_kept_waiting_by_one_of_a_thousand(queue: BareQueue) -> None:
    await queue.build("large", 1000)
    await queue.run(5)
    await queue.build("small", 10)
    given = await queue.run(25)
    assert [name for name in given if name.startswith("small")] == [f"small.{number}" for number in range(10)]


async def test_many_short_builds_do_not_starve_a_long_one(queue: BareQueue) -> None:
    await queue.build("long", 40)
    given: list[str] = []
    for number in range(40):
        await queue.build(f"short-{number}", 1)
        given += await queue.run(2)
    assert builds(given).count("long") >= 35


async def test_an_emptied_flow_goes_on_from_where_the_others_are(queue: BareQueue) -> None:
    await queue.build("early", 2)
    await queue.run(2)
    await queue.build("busy", 100)
    await queue.run(50)
    await queue.admit(*(request(f"early.{number}", build="early") for number in range(2, 22)))
    counts = Counter(builds(await queue.run(40)))
    assert abs(counts["early"] - counts["busy"]) <= 1


async def test_nobody_pays_for_a_batch_that_was_cancelled(queue: BareQueue) -> None:
    await queue.build("hasty", 100)
    await queue.build("other", 50)
    await queue.cancel([f"hasty.{number}" for number in range(100)])
    assert builds(await queue.run(5)) == ["other"] * 5
    await queue.admit(*(request(f"hasty.{number}", build="hasty") for number in range(100, 105)))
    assert builds(await queue.run(11)).count("hasty") == 5


async def test_a_sooner_priority_comes_first_whatever_its_build_has_had(queue: BareQueue) -> None:
    await queue.build("urgent", 30, priority=-1)
    await queue.run(20)
    await queue.build("other", 5)
    assert builds(await queue.run(15)) == ["urgent"] * 10 + ["other"] * 5


async def test_what_is_queued_again_comes_first(queue: BareQueue) -> None:
    await queue.build("one", 20)
    [first, second] = await queue.give(idle("bot", 2))
    await queue.run(5)
    await queue.build("two", 20)
    assert await queue.settle(second, Retry("lost")) is not None
    assert await queue.settle(first, Retry("lost")) is not None
    assert (await queue.run(3))[:2] == ["one.0", "one.1"]
    # Whoever comes while one is queued again does not come before those who wait longer.
    [again] = [leased for leased in await queue.give(idle("bot"))]
    assert await queue.settle(again, Retry("lost")) is not None
    await queue.build("three", 5)
    assert builds(await queue.run(3))[1:] != ["three", "three"]


async def test_calls_without_an_invocation_are_one_build(queue: BareQueue) -> None:
    await queue.admit(*(request(f"nobody.{number}") for number in range(100)))
    await queue.build("small", 5)
    assert builds(await queue.run(10)).count("small") == 5


async def test_a_joiner_with_a_sooner_priority_takes_the_action_with_it(queue: BareQueue) -> None:
    await queue.build("slow", 10)
    [joined] = await queue.admit(request("joiner", build="quick", priority=-1, document="slow.9"))
    assert not isinstance(joined, ResourceExhausted)
    assert await queue.run(1) == ["slow.9"]


async def test_an_action_whose_priority_is_raised_is_not_the_last_of_those_that_have_it(queue: BareQueue) -> None:
    await queue.build("slow", 100)
    await queue.build("urgent", 50, priority=-1)
    await queue.admit(request("joiner", build="quick", priority=-1, document="slow.99"))
    assert "slow.99" in await queue.run(2)


async def test_whoever_comes_to_a_slow_pool_does_not_stand_behind_what_a_quick_one_has_done(queue: BareQueue) -> None:
    await queue.build("large", 100, needs=MAC)
    await queue.run(3, MAC)
    await queue.build("quick", 400)
    while await queue.give(idle("bot", 100)):
        pass
    await queue.build("small", 5, needs=MAC)
    assert builds(await queue.run(10, MAC)).count("small") == 5


async def test_a_platform_that_nobody_asked_for_lately_does_not_come_first_for_bots_that_serve_several(
    queue: BareQueue,
) -> None:
    await queue.build("old", 1, needs=MAC)
    await queue.run(1, MAC)
    await queue.build("linux", 200)
    await queue.run(100)
    await queue.build("mac", 50, needs=MAC)
    counts = Counter(builds(await queue.run(40, MAC, LINUX)))
    assert abs(counts["linux"] - counts["mac"]) <= 1


async def test_a_queue_that_is_full_at_the_start_has_no_room(tmp_path: Path, one_replica: None) -> None:
    async with open_database(database_in(tmp_path)) as database:
        await BareQueue(database).build("a", 3)
        [refused] = await BareQueue(database, max_queued=3).admit(request("b"))
        assert isinstance(refused, ResourceExhausted)


async def test_of_many_platforms_the_one_whose_turn_it_is_comes_next(queue: BareQueue) -> None:
    """With fewer slots than platforms, only some of these are looked through."""
    queue.avoiding = False
    several = [Requirements("main", (("memory", number),), ours_only=False) for number in range(5)]
    for number, needs in enumerate(several):
        await queue.build(f"build-{number}", 3, needs=needs)
    worker = IdleWorker(BotKey("main", "bot"), Offer("main", frozenset({("memory", "16")}), ours=True), 2)
    given: list[str] = []
    while leased := await queue.give(worker):
        assert len(leased) <= 2
        given += [one.action_id for one in leased]
    assert given == [f"build-{build}.{number}" for number in range(3) for build in range(5)]


async def test_a_full_queue_is_counted_once_a_second(tmp_path: Path, tables: Tables, one_replica: None) -> None:
    seconds = 100.0
    async with open_database(database_in(tmp_path)) as database:
        queue = BareQueue(database)
        queue.admissions = Admissions(QueueRoom(3, monotonic=lambda: seconds))
        await queue.build("a", 3)
        [refused] = await queue.admit(request("b"))
        assert isinstance(refused, ResourceExhausted)
        await queue.run(1)
        [refused] = await queue.admit(request("b"))
        assert isinstance(refused, ResourceExhausted)
        seconds += 1.0
        await queue.build("b", 2)
        assert sorted(tables.execute("SELECT id FROM actions WHERE state = 1")) == [("a.1",), ("a.2",), ("b.0",)]


async def test_a_platform_in_use_says_so_once_an_hour(queue: BareQueue, tables: Tables) -> None:
    for name, arrived_at, used_at in (("a", 1000.0, 1000), ("b", 4000.0, 1000), ("c", 4700.0, 4700)):
        await queue.admit(request(name, arrived_at=arrived_at))
        [(found,)] = tables.execute("SELECT used_at FROM platforms")
        assert float(found) == used_at


async def test_how_far_a_priority_has_come_is_forgotten_when_nothing_of_it_is_unfinished(
    queue: BareQueue, tables: Tables
) -> None:
    used = "SELECT DISTINCT priority FROM virtual_times ORDER BY priority"
    for priority in (1, 2, 3):
        await queue.build(f"build-{priority}", 3, priority=priority, needs=LINUX if priority == 1 else MAC)
    await queue.run(4, LINUX, MAC)  # those of 1, which go on, and one of 2
    await queue.run(5, LINUX, MAC)
    tables.execute(f"UPDATE actions SET state = {int(ActionState.COMPLETED)} WHERE priority = 2")
    tables.execute(f"UPDATE actions SET state = {int(ActionState.QUEUED)} WHERE priority = 3")
    assert await queue.database.write(forget_priorities) == 1
    assert tables.execute(used) == [("1",), ("3",)]
    tables.execute(f"UPDATE actions SET state = {int(ActionState.COMPLETED)}")
    assert await queue.database.write(forget_priorities) == 2
    assert tables.execute("SELECT count(*) FROM virtual_times") == [("0",)]
    await queue.build("large", 20)
    await queue.build("small", 2)
    assert builds(await queue.run(5)).count("small") == 2


async def test_many_priorities_are_forgotten_some_at_a_time(queue: BareQueue, tables: Tables) -> None:
    rows = [f"('main', {number}, '{platform}', 1)" for number in range(PRIORITIES + 7) for platform in ("", "one")]
    tables.execute(f"INSERT INTO virtual_times VALUES {', '.join(rows)}")
    assert await queue.database.write(forget_priorities) == PRIORITIES
    assert tables.execute("SELECT count(*) FROM virtual_times") == [("14",)]
    assert await queue.database.write(forget_priorities) == 7
    assert await queue.database.write(forget_priorities) == 0
