"""Dispatcher: what it remembers of the queue."""

from __future__ import annotations

from pathlib import Path

from gridwright.clock import SystemClock
from gridwright_scheduler.board import Board
from gridwright_scheduler.database.assignments import Bounds
from gridwright_scheduler.database.opening import open_database
from gridwright_scheduler.database.turns import Turns
from gridwright_scheduler.dispatcher import Dispatcher
from gridwright_scheduler.queue.names import BotKey, SessionName
from gridwright_scheduler.queue.platform import Offer, Requirements, platform_id
from gridwright_scheduler.sessions import Session, Sessions
from tests.scheduler.databases import database_in

NEEDS = Requirements("main", (), ours_only=False)


async def test_a_hint_that_two_looks_at_the_queue_did_not_find_true_is_dropped(tmp_path: Path) -> None:
    """Otherwise each platform that was ever asked for and refused would be looked through at every poll."""
    clock = SystemClock()
    sessions = Sessions(clock, silence_seconds=15)
    session = Session(BotKey("main", "w"), SessionName("main/s"))
    session.offer = Offer("main", frozenset(), ours=True)
    session.healthy = True
    sessions.begin(session)
    async with open_database(database_in(tmp_path)) as database:
        dispatcher = Dispatcher(Turns(database), sessions, Board(), Bounds(1, 1), clock)
        with session.poll():
            assert dispatcher.take() is None
            dispatcher.hint(NEEDS)
            dispatcher.compare({})  # it may have been queued since that look
            assert dispatcher.take() is not None
            dispatcher.hint(NEEDS)
            dispatcher.compare({})
            assert dispatcher.take() is not None
            dispatcher.compare({})
            assert dispatcher.take() is None
            dispatcher.compare({platform_id(NEEDS): NEEDS})  # what a hint missed
            dispatcher.compare({platform_id(NEEDS): NEEDS})
            assert dispatcher.take() is not None
