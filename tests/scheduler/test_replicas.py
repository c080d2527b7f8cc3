"""Schedulers that share a database: what one does the others know, and what one leaves undone they do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from gridwright.errors import Unavailable
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from gridwright.testing.clock import FakeClock
from gridwright_scheduler.config import DatabaseSettings
from gridwright_scheduler.database.engine import Database
from gridwright_scheduler.database.opening import open_database
from gridwright_scheduler.database.replicas import Replica
from gridwright_scheduler.database.topics import Topic
from gridwright_scheduler.heartbeat import Heartbeat
from gridwright_scheduler.looks import Look
from gridwright_scheduler.shifted_clock import ShiftedClock
from tests.postgres import PostgresServer
from tests.scheduler.databases import database_in, settings_in, use_postgresql
from tests.scheduler.grid import Client, open_replica, settings_for
from tests.scheduler.neighbours import FakeActionCache, FakeCas
from tests.scheduler.scripted_worker import ScriptedWorker

STAGE = re.ExecutionStage
#: Ends the connections on which schedulers hear of each other, and counts them.
END_LISTENERS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR query = 'SELECT 1'"
)


@pytest.fixture
def shared(tmp_path: Path, postgres: PostgresServer) -> Iterator[DatabaseSettings]:
    """A database that schedulers in ``tmp_path`` share."""
    name = postgres.new_database("template_of_tests")
    use_postgresql(tmp_path, postgres, name)
    yield database_in(tmp_path)
    postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at the tables unless he is told to."""
    monkeypatch.setattr("gridwright_scheduler.looks.EVERY_SECONDS", 300.0)


@pytest.fixture
def quick_deaths(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that is killed is known to be dead in a moment."""
    monkeypatch.setattr("gridwright_scheduler.database.replicas.DEAD_AFTER_SECONDS", 1.0)
    monkeypatch.setattr("gridwright_scheduler.heartbeat.BEAT_SECONDS", 0.2)
    for name in ("SOON", "NOW_AND_THEN", "SELDOM"):
        monkeypatch.setattr(f"gridwright_scheduler.upkeep.{name}", 1)


class Site:
    """Replicas that can be started and killed one by one, with neighbours that stay up."""

    def __init__(self, directory: Path, **scheduler: Any) -> None:
        self.cas, self.cache = FakeCas(), FakeActionCache()
        bots = {"hold_seconds": 0.5, **scheduler.pop("bots", {})}
        self._settings = settings_for(directory, bots=bots, **{"drain_seconds": 0.1, **scheduler})
        self._replicas: list[tuple[asyncio.Task[None], asyncio.Event]] = []

    async def start(self) -> Client:
        """Start a replica; return a client of it."""
        opened: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        over = asyncio.Event()

        async def serve() -> None:
            async with open_replica(self._settings, self.cas, self.cache) as replica:
                opened.set_result(Client(replica.channel, self.cas))
                await over.wait()

        task = asyncio.create_task(serve())
        self._replicas.append((task, over))
        task.add_done_callback(lambda _: opened.done() or opened.cancel())
        try:
            return await opened
        except asyncio.CancelledError:
            await task
            raise

    async def kill(self, replica: int) -> None:
        """End the replica that was started as the *replica*-th, without a word to the others."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Heartbeat, "_leave", _say_nothing)
            await self.stop(replica)

    async def stop(self, replica: int) -> None:
        """End a replica in good order."""
        task, over = self._replicas[replica]
        over.set()
        await task

    async def close(self) -> None:
        """End all of them."""
        for replica in range(len(self._replicas)):
            await self.stop(replica)


async def _say_nothing(heartbeat: Heartbeat) -> None:
    pass


@asynccontextmanager
async def open_site(directory: Path, **scheduler: Any) -> AsyncIterator[Site]:
    site = Site(directory, **scheduler)
    try:
        yield site
    finally:
        await site.close()


async def test_an_operation_begins_at_one_is_waited_for_at_another_and_done_by_a_worker_of_a_third(
    tmp_path: Path, shared: DatabaseSettings, no_looks: None
) -> None:
    async with open_site(tmp_path) as site:
        clients = [await site.start() for _ in range(3)]
        worker = await worker_of(clients[2])
        poll = worker.poll()
        executing = clients[0].execute(await clients[0].upload("true"))
        name = (await executing.next()).name
        waiting = clients[1].wait(name)
        await asyncio.wait_for(poll, 5)
        for stream in (executing, waiting):
            await asyncio.wait_for(stream.until(STAGE.EXECUTING), 5)
        await worker.run(re.ActionResult(stdout_raw=b"done"))
        for stream in (executing, waiting):
            assert (await asyncio.wait_for(stream.response(), 5)).result.stdout_raw == b"done"
        assert (await clients[2].get(name)).done


async def test_a_cancellation_at_one_reaches_at_once_a_poll_and_a_stream_that_others_hold(
    tmp_path: Path, shared: DatabaseSettings, no_looks: None
) -> None:
    async with open_site(tmp_path, bots={"hold_seconds": 20}) as site:
        clients = [await site.start() for _ in range(3)]
        worker = await worker_of(clients[1])
        executing = clients[2].execute(await clients[0].upload("true"))
        name = (await executing.next()).name
        await worker.take()
        poll = worker.poll()
        await executing.until(STAGE.EXECUTING)
        await clients[0].cancel(name)
        assert not (await asyncio.wait_for(poll, 1)).leases
        assert (await asyncio.wait_for(executing.response(), 1)).status.code != 0


async def test_of_an_action_that_goes_on_for_others_a_cancelled_operation_ends_everywhere(
    tmp_path: Path, shared: DatabaseSettings, no_looks: None
) -> None:
    async with open_site(tmp_path) as site:
        clients = [await site.start() for _ in range(2)]
        digest = await clients[0].upload("true")
        kept, cancelled = clients[0].execute(digest), clients[0].execute(digest)
        await kept.next()
        await clients[1].cancel((await cancelled.next()).name)
        await asyncio.wait_for(cancelled.response(), 2)
        await (await worker_of(clients[1])).run()
        await asyncio.wait_for(kept.response(), 2)


async def test_what_a_killed_replica_had_to_complete_another_completes(
    tmp_path: Path, shared: DatabaseSettings, quick_deaths: None
) -> None:
    async with open_site(tmp_path, cache_write_seconds=2.0) as site:
        clients = [await site.start() for _ in range(2)]
        executing = clients[1].execute(await clients[0].upload("true"), skip_cache_lookup=True)
        worker = await worker_of(clients[0])
        [lease] = await worker.take()
        site.cache.down = True  # the replica tries and tries
        worker.finish(lease.id, re.ActionResult(stdout_raw=b"kept"))
        await worker.update()
        await site.kill(0)
        site.cache.down = False
        assert (await asyncio.wait_for(executing.response(), 10)).result.stdout_raw == b"kept"
        assert len(site.cache.results) == 1


async def test_a_worker_of_a_killed_replica_keeps_its_work_as_it_turns_to_another(
    tmp_path: Path, shared: DatabaseSettings, quick_deaths: None
) -> None:
    async with open_site(tmp_path) as site:
        clients = [await site.start() for _ in range(2)]
        executing = clients[1].execute(await clients[0].upload("true"))
        worker = await worker_of(clients[0])
        [lease] = await worker.take()
        await worker.update()
        await site.kill(0)
        worker.use(clients[1].channel)
        worker.finish(lease.id, re.ActionResult(stdout_raw=b"kept"))
        await worker.update()
        response = await asyncio.wait_for(executing.response(), 5)
        assert response.result.stdout_raw == b"kept"
        assert not response.message  # one attempt was enough


async def test_the_work_of_a_worker_that_died_with_its_replica_is_done_by_another(
    tmp_path: Path, shared: DatabaseSettings, quick_deaths: None
) -> None:
    bots = {"silence_seconds": 0.7, "heartbeat_seconds": 0.2, "reattach_seconds": 0.2}
    async with open_site(tmp_path, bots=bots) as site:
        clients = [await site.start() for _ in range(2)]
        executing = clients[1].execute(await clients[0].upload("true"))
        dead = await worker_of(clients[0], "dead")
        await dead.take()
        await site.kill(0)
        await (await worker_of(clients[1], "alive")).run()
        assert "worker dead" in (await asyncio.wait_for(executing.response(), 10)).message


async def test_what_belongs_to_a_replica_that_stops_is_at_once_for_the_others(
    tmp_path: Path, shared: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridwright_scheduler.upkeep.NOW_AND_THEN", 1)
    bots = {"silence_seconds": 0.7, "heartbeat_seconds": 0.2, "reattach_seconds": 0.2}
    async with open_site(tmp_path, bots=bots) as site:
        clients = [await site.start() for _ in range(2)]
        executing = clients[0].execute(await clients[0].upload("true"))
        name = (await executing.next()).name
        await (await worker_of(clients[0], "gone")).take()
        await site.stop(0)
        waiting = clients[1].wait(name)
        await (await worker_of(clients[1])).run()
        assert "worker gone" in (await asyncio.wait_for(waiting.response(), 8)).message


async def test_notices_that_were_lost_are_caught_up_with(
    tmp_path: Path, shared: DatabaseSettings, postgres: PostgresServer, no_looks: None
) -> None:
    async with open_site(tmp_path) as site:
        clients = [await site.start() for _ in range(2)]
        worker = await worker_of(clients[1])
        for number in range(3):
            executing = clients[0].execute(await clients[0].upload(str(number)))
            poll = worker.poll()
            assert int(postgres.sql(END_LISTENERS)) >= 2
            await asyncio.wait_for(poll, 10)
            await worker.run()
            await asyncio.wait_for(executing.response(), 10)


async def test_replicas_may_start_at_the_same_time_and_behind_a_pooler(
    tmp_path: Path, shared: DatabaseSettings
) -> None:
    database = {**settings_in(tmp_path), "prepared_statements": False, "notify_url": shared.url}
    async with open_site(tmp_path, database=database) as site:
        clients = await asyncio.gather(*(site.start() for _ in range(3)))
        streams = [clients[number % 3].execute(await clients[0].upload(str(number))) for number in range(12)]
        workers = [await worker_of(client, f"worker-{number}") for number, client in enumerate(clients)]
        running = [asyncio.create_task(_work(worker)) for worker in workers]
        await asyncio.wait_for(asyncio.gather(*(stream.response() for stream in streams)), 20)
        assert len(site.cache.results) == 12
        for task in running:
            task.cancel()


async def test_the_replica_that_is_there_longest_leads_and_knows_whether_it_is_alone(
    shared: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridwright_scheduler.heartbeat.BEAT_SECONDS", 0.02)
    async with open_database(shared) as database:
        old, young, late = Replica(), Replica(), Replica()
        async with beating(database, old):
            assert (old.leads, old.alone) == (True, True)
            async with beating(database, young), beating(database, late):
                assert [one.leads for one in (old, young, late)] == [True, False, False]
                await until(lambda: not old.alone)
            await until(lambda: old.alone)
            assert old.leads


async def test_a_replica_that_was_not_seen_for_long_is_dead(
    shared: DatabaseSettings, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridwright_scheduler.heartbeat.BEAT_SECONDS", 0.02)
    name = shared.url.rpartition("/")[2]
    async with open_database(shared) as database:
        silent, other = Replica(), Replica()
        async with Heartbeat(database, silent, ShiftedClock(FakeClock())).beating(), beating(database, other):
            assert not other.leads
            postgres.sql(f"UPDATE replicas SET seen_at = seen_at - 11 WHERE id = '{silent.id}'", database=name)
            await until(lambda: other.leads and other.alone)
            postgres.sql(f"DELETE FROM replicas WHERE id = '{other.id}'", database=name)
            await until(lambda: postgres.sql("SELECT count(*) FROM replicas", database=name) == "2")


async def test_the_clock_of_the_database_is_that_of_all(shared: DatabaseSettings, postgres: PostgresServer) -> None:
    local = FakeClock(now=1_000.0)
    clock = ShiftedClock(local)
    async with open_database(shared) as database, Heartbeat(database, Replica(), clock).beating():
        theirs = float(postgres.sql("SELECT extract(epoch FROM clock_timestamp())"))
        assert abs(clock.now() - theirs) < 60
    local.advance(1.0)
    assert clock.now() > 1_700_000_000.0


async def test_a_clock_that_may_be_right_is_left_as_it_is() -> None:
    local = FakeClock(now=1_000.0)
    clock = ShiftedClock(local)
    since = local.monotonic()
    local.advance(0.2)  # the database took its time to say it
    clock.measured(5_000.1, since=since)
    assert clock.now() == pytest.approx(5_000.2, abs=1e-6)
    clock.measured(5_000.15, since=since)
    assert clock.now() == pytest.approx(5_000.2, abs=1e-6)
    clock.measured(5_000.3, since=since)
    assert clock.now() == pytest.approx(5_000.4, abs=1e-6)
    local.set_back(100.0)
    clock.measured(5_000.5, since=local.monotonic())
    assert clock.now() == pytest.approx(5_000.5, abs=1e-6)
    assert clock.monotonic() == local.monotonic()


async def test_notices_of_others_are_heard_and_not_ones_own(shared: DatabaseSettings) -> None:
    async with open_database(shared) as one, open_database(shared) as other:
        heard: asyncio.Queue[Topic] = asyncio.Queue()
        listening = asyncio.create_task(one.listen(heard.put_nowait))
        assert {await heard.get() for _ in Topic} == set(Topic)  # what was said before is lost
        await one.write(lambda connection: one.notify(connection, [Topic.QUEUE]))
        await other.write(lambda connection: other.notify(connection, [Topic.LEASES]))
        assert await asyncio.wait_for(heard.get(), 5) is Topic.LEASES
        with pytest.raises(RuntimeError):
            await other.write(lambda connection: _notify_and_fail(other, connection))
        await other.write(lambda connection: other.notify(connection, list(Topic)))
        assert {await asyncio.wait_for(heard.get(), 5) for _ in Topic} == set(Topic)
        assert heard.empty()
        listening.cancel()


async def test_a_listener_comes_back_after_its_server_did(shared: DatabaseSettings, postgres: PostgresServer) -> None:
    async with open_database(shared) as database:
        heard: asyncio.Queue[Topic] = asyncio.Queue()
        listening = asyncio.create_task(database.listen(heard.put_nowait))
        for _ in range(3):
            assert {await asyncio.wait_for(heard.get(), 10) for _ in Topic} == set(Topic)
            postgres.sql(END_LISTENERS)
        listening.cancel()


async def test_a_listener_whose_connection_is_cut_off_notices(
    shared: DatabaseSettings, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridwright_scheduler.database.postgresql_notices._CHECK_SECONDS", 0.1)
    monkeypatch.setattr("gridwright_scheduler.database.postgresql_notices._ANSWER_SECONDS", 0.5)
    async with open_database(shared) as database:
        heard: asyncio.Queue[Topic] = asyncio.Queue()
        listening = asyncio.create_task(database.listen(heard.put_nowait))
        assert {await asyncio.wait_for(heard.get(), 10) for _ in Topic} == set(Topic)
        postgres.freeze()
        try:
            await asyncio.sleep(1.0)
        finally:
            postgres.thaw()
        assert {await asyncio.wait_for(heard.get(), 10) for _ in Topic} == set(Topic)
        listening.cancel()


async def test_whoever_wants_a_look_while_one_goes_on_gets_one_more() -> None:
    begun, go_on = asyncio.Semaphore(0), asyncio.Semaphore(0)
    running = 0

    async def look() -> None:
        nonlocal running
        running += 1
        assert running == 1
        begun.release()
        await go_on.acquire()
        running -= 1

    one = Look(look)
    looking = asyncio.create_task(one.run())
    one.want()
    await begun.acquire()
    for _ in range(5):
        one.want()
    go_on.release()
    await begun.acquire()
    go_on.release()
    done, _ = await asyncio.wait([asyncio.create_task(begun.acquire())], timeout=0.2)
    assert not done
    looking.cancel()


async def test_a_look_that_fails_is_tried_again_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridwright_scheduler.looks.EVERY_SECONDS", 0.01)
    looks = asyncio.Semaphore(0)

    async def look() -> None:
        looks.release()
        raise Unavailable("the database is away")

    looking = asyncio.create_task(Look(look).run())
    for _ in range(3):
        await asyncio.wait_for(looks.acquire(), 5)
    looking.cancel()


async def worker_of(client: Client, bot_id: str = "worker-1") -> ScriptedWorker:
    worker = ScriptedWorker(client.channel, bot_id)
    await worker.create()
    return worker


async def _work(worker: ScriptedWorker) -> None:
    while True:
        await worker.run()


def _notify_and_fail(database: Database, connection: Connection) -> None:
    database.notify(connection, [Topic.ACTIONS])
    raise RuntimeError("nothing comes of it")


@asynccontextmanager
async def beating(database: Database, replica: Replica) -> AsyncIterator[None]:
    heartbeat = Heartbeat(database, replica, ShiftedClock(FakeClock()))
    async with heartbeat.beating():
        running = asyncio.create_task(heartbeat.run())
        yield
        running.cancel()
        await asyncio.wait([running])


async def until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # what is waited for announces nothing
            await asyncio.sleep(0.02)
