"""Dispatcher: what it remembers of the queue, what it finds out by itself, and what it tells other replicas."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, insert

from gridwright.errors import Unavailable
from gridwright.testing.clock import FakeClock
from gridwright_scheduler.board import Board
from gridwright_scheduler.database.assignments import MAX_LEASES, Bounds
from gridwright_scheduler.database.bots import Description
from gridwright_scheduler.database.opening import open_database
from gridwright_scheduler.database.schema import bots
from gridwright_scheduler.database.topics import Topic
from gridwright_scheduler.database.turns import Batch, Turns
from gridwright_scheduler.dispatcher import Dispatcher
from gridwright_scheduler.metrics import QueueMetrics
from gridwright_scheduler.queue.names import BotKey, SessionName
from gridwright_scheduler.queue.platform import Requirements
from gridwright_scheduler.queue.settling import Retry
from gridwright_scheduler.session import Session
from gridwright_scheduler.sessions import Sessions
from tests.scheduler.bare_queue import LINUX, MAC, BareQueue, idle
from tests.scheduler.databases import database_in


@dataclass
class Bench:
    """A dispatcher whose turns the test takes."""

    queue: BareQueue
    turns: Turns
    sessions: Sessions
    dispatcher: Dispatcher

    @contextmanager
    def polling(self, bot_id: str, *needs: Requirements, slots: int = 1) -> Iterator[Session]:
        """Have a bot wait for work, which can do what has one of *needs*."""
        worker = idle(bot_id, slots, *needs)
        session = self.sessions.find(worker.bot)
        if session is None:
            session = Session(worker.bot, SessionName(f"main/{bot_id}"))
            self.sessions.begin(session)
        session.describe(Description(worker.offer, slots, healthy=True))
        with session.poll():
            yield session

    async def turn(self) -> set[Topic]:
        """Take a turn, if the dispatcher has something to do in it; return what it tells other replicas."""
        batch = self.dispatcher.take()
        if batch is None:
            return set()
        return await self.carry_out(batch)

    async def carry_out(self, batch: Batch) -> set[Topic]:
        """Do what a turn does with *batch*."""
        topics: set[Topic] = set()

        def apply(connection: Connection) -> None:
            batch.apply(connection)
            topics.update(batch.topics(frozenset()))

        await self.queue.database.write(apply)
        batch.committed()
        return topics


@pytest.fixture
async def bench(tmp_path: Path, one_replica: None) -> AsyncIterator[Bench]:
    clock = FakeClock()
    async with open_database(database_in(tmp_path)) as database:
        turns = Turns(database)
        turns.replica.alone = False
        sessions = Sessions(clock, silence_seconds=15)
        metrics = QueueMetrics(CollectorRegistry())
        dispatcher = Dispatcher(turns, sessions, Board(), Bounds(600.0, 3600.0), clock, metrics)
        yield Bench(BareQueue(database), turns, sessions, dispatcher)


async def test_without_a_hint_nothing_is_looked_for(bench: Bench) -> None:
    await bench.queue.build("unseen", 1)
    with bench.polling("bot", LINUX) as session:
        assert bench.dispatcher.take() is None
        bench.dispatcher.hint(LINUX)
        await bench.turn()
        assert len(session.leases) == 1


async def test_what_is_suspected_is_found_and_given_away_in_one_turn(bench: Bench) -> None:
    await bench.queue.build("linux", 1)
    await bench.queue.build("mac", 1, needs=MAC)
    bench.dispatcher.suspect()
    assert bench.dispatcher.take() is None  # there is nobody to give it to
    with bench.polling("bot", LINUX) as session:
        await bench.turn()
        assert len(session.leases) == 1
    with bench.polling("mac", MAC) as session:  # the look has found this, too
        await bench.turn()
        assert len(session.leases) == 1
        assert bench.dispatcher.take() is None


async def test_a_hint_that_a_look_at_the_table_does_not_find_true_is_dropped(bench: Bench) -> None:
    """Otherwise each platform that was ever asked for and refused would be looked through at every poll."""
    bench.dispatcher.hint(MAC)
    with bench.polling("bot", LINUX):
        bench.dispatcher.suspect()
        await bench.turn()
    with bench.polling("mac", MAC):
        assert bench.dispatcher.take() is None


async def test_what_is_queued_while_the_table_is_looked_at_is_not_forgotten(bench: Bench) -> None:
    with bench.polling("bot", LINUX) as session:
        bench.dispatcher.suspect()
        batch = bench.dispatcher.take()
        assert batch is not None
        await bench.queue.database.write(batch.apply)
        await bench.queue.build("late", 1)
        bench.dispatcher.hint(LINUX)
        batch.committed()
        await bench.turn()
        assert len(session.leases) == 1


async def test_a_suspicion_outlives_a_turn_that_came_to_nothing(bench: Bench) -> None:
    await bench.queue.build("linux", 1)
    with bench.polling("bot", LINUX) as session:
        bench.dispatcher.suspect()
        batch = bench.dispatcher.take()
        assert batch is not None
        assert bench.dispatcher.take() is None
        batch.failed(Unavailable("the database is away"))
        await bench.turn()
        assert len(session.leases) == 1


async def test_other_replicas_hear_of_what_is_left_and_of_nothing_else(bench: Bench) -> None:
    await bench.queue.build("linux", 3)
    bench.dispatcher.hint(LINUX)
    assert await bench.turn() == {Topic.QUEUE}
    assert await bench.turn() == set()  # they know
    with bench.polling("bot", LINUX, slots=2):
        bench.dispatcher.hint(LINUX)
        assert await bench.turn() == {Topic.QUEUE, Topic.ACTIONS}
    with bench.polling("other", LINUX, slots=2):
        bench.dispatcher.hint(LINUX)
        assert await bench.turn() == {Topic.ACTIONS}
    bench.turns.replica.alone = True
    bench.dispatcher.hint(LINUX)
    assert bench.dispatcher.take() is None


async def test_a_turn_gives_a_bounded_number_of_leases_and_the_next_one_goes_on(bench: Bench) -> None:
    await bench.queue.build("large", MAX_LEASES + 10)
    bench.dispatcher.hint(LINUX)
    with bench.polling("bot", LINUX, slots=MAX_LEASES + 20) as session:
        await bench.turn()
        assert len(session.leases) == MAX_LEASES
        await bench.turn()
        assert len(session.leases) == MAX_LEASES + 10


async def test_what_waits_for_another_bot_hides_nothing_also_if_another_replica_queued_it_again(bench: Bench) -> None:
    await bench.queue.build("linux", 2)
    [leased] = await bench.queue.give(idle("bot"))
    bench.queue.now = FakeClock().now()
    bench.queue.avoid_seconds = 30.0
    assert await bench.queue.settle(leased, Retry("lost")) is not None
    bench.dispatcher.suspect()
    with bench.polling("bot", LINUX) as session:
        await bench.turn()
        assert not session.leases
        await bench.turn()
        assert [held.leased.action_id for held in session.leases.values()] == ["linux.1"]


async def test_a_bot_that_is_another_replicas_now_is_forgotten_and_what_it_was_to_get_goes_to_others(
    bench: Bench,
) -> None:
    bench.dispatcher = Dispatcher(
        bench.turns,
        bench.sessions,
        Board(),
        Bounds(600.0, 3600.0),
        FakeClock(),
        QueueMetrics(CollectorRegistry()),
        fenced=True,
    )
    await bench.queue.build("linux", 1)
    bench.dispatcher.hint(LINUX)
    rows = [("gone", "another"), ("here", bench.turns.replica.id)]
    values = [
        {"instance": "main", "bot_id": bot, "session": f"main/{bot}", "replica": replica} for bot, replica in rows
    ]
    await bench.queue.database.write(lambda connection: connection.execute(insert(bots), values))
    with bench.polling("gone", LINUX) as gone:
        await bench.turn()
        assert bench.sessions.find(BotKey("main", "gone")) is None
        assert not gone.leases
        with bench.polling("here", LINUX) as here:
            await bench.turn()
            assert len(here.leases) == 1
