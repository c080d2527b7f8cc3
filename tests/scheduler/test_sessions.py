"""Sessions: the idle and the silent are found without a look at all the others."""

from __future__ import annotations

import asyncio

import pytest

from gridwright.testing.clock import FakeClock
from gridwright_scheduler.database.bots import Description
from gridwright_scheduler.database.records import Leased
from gridwright_scheduler.database.settlements import Settled
from gridwright_scheduler.queue.names import ActionId, ActionKey, BotKey, LeaseId, SessionName
from gridwright_scheduler.queue.platform import Offer
from gridwright_scheduler.session import Session
from gridwright_scheduler.sessions import Sessions
from tests.scheduler.neighbours import SHA256

LINUX = Offer("main", frozenset({("OSFamily", "linux")}), ours=True)
MAC = Offer("main", frozenset({("OSFamily", "mac")}), ours=True)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def sessions(clock: FakeClock) -> Sessions:
    return Sessions(clock, silence_seconds=15.0)


def come(sessions: Sessions, name: str = "bot", offer: Offer = LINUX, capacity: int = 1) -> Session:
    session = Session(BotKey("main", name), SessionName(f"main/{name}"))
    session.describe(Description(offer, capacity, healthy=True))
    sessions.begin(session)
    return session


def leased(name: str = "lease") -> Leased:
    bot, key = BotKey("main", "bot"), ActionKey("main", SHA256.digest(b""))
    return Leased(
        ActionId(name), LeaseId(name), bot, key, b"", do_not_cache=False, queued_at=0, failures=(), give_up_at=0
    )


def names(sessions: Sessions) -> list[str]:
    return [worker.bot.bot_id for worker in sessions.idle()]


def test_a_bot_is_idle_while_it_polls_is_well_and_has_room(sessions: Sessions) -> None:
    session = come(sessions)
    assert not sessions.idle()
    with session.poll():
        [worker] = sessions.idle()
        assert (worker.bot, worker.offer, worker.free_slots, worker.session) == (session.bot, LINUX, 1, session.name)
        session.describe(Description(LINUX, 1, healthy=False))
        assert not sessions.idle()
        session.describe(Description(LINUX, 1, healthy=True))
        session.give(leased())
        assert not sessions.idle()
        session.take(LeaseId("lease"))
        assert names(sessions) == ["bot"]
        session.doubt()
        assert not sessions.idle()
    assert not sessions.idle_offers()


async def test_a_lease_that_is_being_settled_leaves_room_unless_that_fails(sessions: Sessions) -> None:
    session = come(sessions)
    session.give(leased())
    with session.poll():
        settling: asyncio.Future[Settled | None] = asyncio.get_running_loop().create_future()
        session.settle(LeaseId("lease"), settling)
        assert names(sessions) == ["bot"]
        settling.set_exception(OSError())
        assert settling.exception()
        await asyncio.sleep(0)
        assert not sessions.idle()


def test_idle_bots_are_found_by_what_they_offer_the_longest_idle_first(sessions: Sessions) -> None:
    bots = [come(sessions, name, offer) for name, offer in (("a", LINUX), ("b", MAC), ("c", LINUX), ("d", LINUX))]
    polls = [bot.poll() for bot in bots]
    for poll in reversed(polls):
        poll.__enter__()
    assert set(sessions.idle_offers()) == {LINUX, MAC}
    assert [worker.bot.bot_id for worker in sessions.idle([LINUX], limit=2)] == ["d", "c"]
    bots[3].describe(Description(MAC, 1, healthy=True))
    assert [worker.bot.bot_id for worker in sessions.idle([MAC])] == ["b", "d"]
    sessions.end(bots[1])
    assert sorted(names(sessions)) == ["a", "c", "d"]
    sessions.stop()
    assert not sessions.idle_offers()
    assert not sessions.idle()


def test_a_bot_that_polls_is_never_silent(sessions: Sessions, clock: FakeClock) -> None:
    one, two = come(sessions, "one"), come(sessions, "two")
    with one.poll():
        clock.advance(60)
        assert sessions.silent() == [two]
        sessions.end(two)
    assert not sessions.silent()
    clock.advance(14)
    assert not sessions.silent()
    clock.advance(2)
    assert sessions.silent() == [one]


def test_a_poll_in_the_place_of_an_older_one_is_the_one_that_counts(sessions: Sessions) -> None:
    session = come(sessions)
    with session.poll() as second:
        with session.poll() as third:
            assert second.news.is_set()
            assert not third.news.is_set()
            assert session.is_answered_by(third)
        assert not session.polling
    assert not sessions.idle()


def test_a_session_that_takes_the_place_of_another_ends_its_poll(sessions: Sessions) -> None:
    older = come(sessions)
    with older.poll() as poll:
        newer = come(sessions)
        assert poll.news.is_set()
        assert not sessions.idle()
        older.give(leased())  # of no effect on who is idle
        assert sessions.find(older.bot) is newer
