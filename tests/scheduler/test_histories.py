"""Any history of builds, bots, losses, cancellations and restarts: hypothesis looks for one that breaks a promise."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from google.rpc import code_pb2
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gridwright.digest import Digest
from gridwright.errors import Aborted
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2 as pb
from gridwright.protos.google.devtools.remoteworkers.v1test2 import worker_pb2
from gridwright.protos.google.devtools.remoteworkers.v1test2.bots_rpc import BotsClient
from gridwright.testing.clock import FakeClock
from gridwright.wire.in_process_channel import InProcessChannel
from gridwright.wire.process import Process
from gridwright_scheduler import app, heartbeat, looks, upkeep
from gridwright_scheduler.app import Neighbours, open_scheduler
from gridwright_scheduler.config import SchedulerFile
from gridwright_scheduler.database import replicas
from gridwright_scheduler.queue.states import ActionState
from tests.postgres import PostgresServer
from tests.scheduler.databases import TEMPLATE, Tables, use_postgresql
from tests.scheduler.grid import Client, Stream, response_of, settings_for
from tests.scheduler.neighbours import FakeActionCache, FakeCas
from tests.scheduler.scripted_worker import TIMEOUT_SECONDS, packed

_FOREVER = 1e9
_CAPACITIES = (1, 2, 3)
_ACTIONS = 6
#: More polls than any history needs until all is done.
_LAST_POLLS = 300

BOTS = st.integers(0, len(_CAPACITIES) - 1)
NUMBERS = st.integers(0, 10)


class Lease(NamedTuple):
    """What the tables say of one."""

    state: ActionState
    bot_id: str


class Replica:
    """A scheduler, and how to stop it."""

    def __init__(self) -> None:
        self._stop = asyncio.Event()

    async def open(self, scheduler: SchedulerFile, neighbours: Neighbours) -> None:
        """Return when it is ready."""
        opened: asyncio.Future[InProcessChannel] = asyncio.get_running_loop().create_future()
        self._running = asyncio.create_task(self._run(scheduler, neighbours, opened))
        waited: list[asyncio.Future[Any]] = [self._running, opened]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if self._running.done():
            await self._running
        self.channel = await opened

    async def close(self) -> None:
        """End it in good order."""
        self._stop.set()
        await self._running

    async def kill(self) -> None:
        """End it in the middle of whatever it does."""
        self._running.cancel()
        await asyncio.wait([self._running])

    async def _run(
        self, scheduler: SchedulerFile, neighbours: Neighbours, opened: asyncio.Future[InProcessChannel]
    ) -> None:
        async with open_scheduler(scheduler, neighbours, Process()) as running:
            opened.set_result(InProcessChannel(*running.servicers))
            await self._stop.wait()
            running.end_what_is_held()


class Bot:
    """A worker as the wire sees it; what it does next, the history says."""

    def __init__(self, bot_id: str, capacity: int) -> None:
        self.bot_id = bot_id
        self.capacity = capacity
        self.name = ""
        #: The leases that it has begun, and whether each is done.
        self.held: dict[str, bool] = {}
        #: Leases that were its own at some time.
        self.known: set[str] = set()

    async def begin(self, channel: InProcessChannel) -> None:
        """Start anew, with nothing in hand."""
        self.held.clear()
        request = pb.CreateBotSessionRequest(parent="main", bot_session=self._session())
        self.name = (await BotsClient(channel).create_bot_session(request, timeout=TIMEOUT_SECONDS)).name

    async def poll(self, channel: InProcessChannel, *, also: Iterable[str] = ()) -> None:
        """Report what it holds, and the leases *also*, which are over, as completed; hear what it has now."""
        session = self._session()
        session.name = self.name
        reported = {**dict.fromkeys(also, True), **self.held}
        for lease_id, done in reported.items():
            lease = session.leases.add(id=lease_id, state=pb.COMPLETED if done else pb.ACTIVE)
            if done:
                lease.status.code = code_pb2.OK
                lease.result.CopyFrom(packed(re.ActionResult(stdout_raw=lease_id.encode())))
        request = pb.UpdateBotSessionRequest(name=self.name, bot_session=session)
        try:
            answer = await BotsClient(channel).update_bot_session(request, timeout=TIMEOUT_SECONDS)
        except Aborted:  # another has begun under this name
            self.name = ""
            self.held.clear()
            return
        assert len(answer.leases) <= self.capacity
        self.held = {lease.id: self.held.get(lease.id, False) for lease in answer.leases}
        self.known |= self.held.keys()

    def _session(self) -> pb.BotSession:
        worker = worker_pb2.Worker(devices=[worker_pb2.Device(handle=self.bot_id)])
        worker.configs.add(key="capacity", value=str(self.capacity))
        for key, value in (("OSFamily", "linux"), ("gridwright", "0.1.0")):
            worker.properties.add(key=key, value=value)
        return pb.BotSession(bot_id=self.bot_id, status=pb.OK, worker=worker)


class Histories(RuleBasedStateMachine):
    """Schedulers over one database, and what they have promised.

    What happens in which order hypothesis says; what each scheduler does meanwhile by itself
    nobody does, so nothing here expects that something is the case already.
    """

    replica_count = 1
    #: None: SQLite.
    server: PostgresServer | None = None

    def __init__(self) -> None:
        super().__init__()
        self.patches = pytest.MonkeyPatch()
        self.directory = Path(tempfile.mkdtemp(prefix="histories-"))
        self.runner = asyncio.Runner()
        self.bots = [Bot(f"bot-{number}", capacity) for number, capacity in enumerate(_CAPACITIES)]
        self.cas, self.cache = FakeCas(), FakeActionCache()
        self.replicas: list[Replica] = []
        self.streams: list[Stream] = []
        #: The name of each operation, and what it came to, once that is known.
        self.ends: dict[str, bytes | None] = {}
        self.cancelled: set[str] = set()
        #: Leases that were reported completed when their action was queued, or had another one.
        self.stale: set[str] = set()

    @initialize()
    def begin(self) -> None:
        self._prepare()
        self.runner.run(self._open_all())

    @rule(number=st.integers(0, _ACTIONS - 1), do_not_cache=st.booleans(), priority=st.integers(-1, 1), at=NUMBERS)
    def execute(self, number: int, do_not_cache: bool, priority: int, at: int) -> None:
        self.runner.run(self._execute(number, do_not_cache, priority, at))

    @rule(which=NUMBERS, at=NUMBERS)
    def wait(self, which: int, at: int) -> None:
        if self.ends:
            self.streams.append(self._follow(list(self.ends)[which % len(self.ends)], at))

    @rule(which=NUMBERS)
    def hang_up(self, which: int) -> None:
        if self.streams:
            self.runner.run(self.streams.pop(which % len(self.streams)).close())

    @rule(which=BOTS, at=NUMBERS)
    def start_bot(self, which: int, at: int) -> None:
        self.runner.run(self.bots[which].begin(self._at(at)))

    @rule(which=BOTS, at=NUMBERS)
    def poll(self, which: int, at: int) -> None:
        self.runner.run(self._poll(self.bots[which], at))

    @rule(which=BOTS, count=st.integers(1, 3), at=NUMBERS)
    def complete(self, which: int, count: int, at: int) -> None:
        bot = self.bots[which]
        for lease_id in list(bot.held)[:count]:
            bot.held[lease_id] = True
        self.runner.run(self._poll(bot, at))

    @rule(owner=BOTS, teller=BOTS, which=NUMBERS, at=NUMBERS)
    def complete_what_is_over(self, owner: int, teller: int, which: int, at: int) -> None:
        """A bot tells late, or of another's lease."""
        over = sorted(self.bots[owner].known - self.bots[teller].held.keys())
        if over and self.bots[teller].name:
            self.runner.run(self._tell_late(self.bots[teller], over[which % len(over)], at))

    @rule(lost=BOTS, at=NUMBERS)
    def lose(self, lost: int, at: int) -> None:
        """A bot says nothing for too long; it may come back later."""
        self.runner.run(self._be_silent([bot for bot in self.bots if bot is not self.bots[lost]], at))

    @rule(which=NUMBERS, at=NUMBERS)
    def cancel(self, which: int, at: int) -> None:
        if self.ends:
            self.runner.run(self._cancel(list(self.ends)[which % len(self.ends)], at))

    @rule(which=NUMBERS)
    def restart(self, which: int) -> None:
        self.runner.run(self._restart(which % self.replica_count))

    @precondition(lambda self: self.replicas)
    @invariant()
    def no_bot_has_more_than_it_can_take(self) -> None:
        capacities = {bot.bot_id: bot.capacity for bot in self.bots}
        query = f"SELECT bot_id, count(*) FROM actions WHERE state = {int(ActionState.EXECUTING)} GROUP BY bot_id"
        for bot_id, count in self._tables().execute(query):
            assert int(count) <= capacities[bot_id]

    @precondition(lambda self: self.replicas)
    @invariant()
    def an_operation_ends_once(self) -> None:
        for stream in self.streams:
            self._note_end(stream)

    def teardown(self) -> None:
        try:
            if self.replicas:
                self.runner.run(self._come_to_an_end())
        finally:
            self.runner.run(self._close_all())
            self.runner.close()
            self.patches.undo()
            shutil.rmtree(self.directory)

    async def _execute(self, number: int, do_not_cache: bool, priority: int, at: int) -> None:
        client = self._client(at)
        digest = await self._action(client, number, do_not_cache)
        policy = re.ExecutionPolicy(priority=priority)
        stream = client.execute(digest, timeout=None, execution_policy=policy, skip_cache_lookup=True)
        self.streams.append(stream)
        self.ends.setdefault((await stream.next()).name, None)

    async def _action(self, client: Client, number: int, do_not_cache: bool) -> Digest:
        properties = {"OSFamily": "linux"}
        return await client.upload("action", str(number), properties=properties, do_not_cache=do_not_cache)

    def _follow(self, name: str, at: int) -> Stream:
        async def follow() -> Stream:
            stream = self._client(at).wait(name)
            await stream.next()
            return stream

        return self.runner.run(follow())

    async def _poll(self, bot: Bot, at: int) -> None:
        if bot.name:
            await bot.poll(self._at(at))

    async def _tell_late(self, bot: Bot, lease_id: str, at: int) -> None:
        before = self._lease(lease_id)
        await bot.poll(self._at(at), also=[lease_id])
        if before == (ActionState.EXECUTING, bot.bot_id):
            return
        if before is None or before.state is ActionState.QUEUED:
            self.stale.add(lease_id)
        elif before.state is ActionState.EXECUTING:
            after = self._lease(lease_id)
            assert after is None or after.state in (ActionState.EXECUTING, ActionState.QUEUED)

    def _lease(self, lease_id: str) -> Lease | None:
        """Return how the action is whose lease is, or was last, *lease_id*."""
        query = f"SELECT state, bot_id FROM actions WHERE lease_id = '{lease_id}'"
        rows = self._tables().execute(query)
        return Lease(ActionState(int(rows[0][0])), rows[0][1]) if rows else None

    async def _be_silent(self, others: Sequence[Bot], at: int) -> None:
        """Let so much time pass that all but *others*, who are heard of, are taken for gone."""
        polls = [asyncio.create_task(self._poll(bot, at)) for bot in others]
        await self._pass_time()
        await asyncio.gather(*polls)

    async def _cancel(self, name: str, at: int) -> None:
        await self._client(at).cancel(name)
        self.cancelled.add(name)

    async def _restart(self, which: int) -> None:
        await self.replicas[which].close()
        self.replicas[which] = await self._opened()

    async def _come_to_an_end(self) -> None:
        """One bot does what is left; what others held comes to it when they are taken for gone."""
        last = self.bots[-1]
        await last.begin(self._at(0))
        for _ in range(_LAST_POLLS):
            last.held = dict.fromkeys(last.held, True)
            await self._poll(last, 0)
            unfinished = f"SELECT count(*) FROM actions WHERE state <> {int(ActionState.COMPLETED)}"
            if self._tables().execute(unfinished) == [("0",)]:
                break
            if not last.held:
                await self._be_silent([last], 0)
        else:
            raise AssertionError(f"something hangs: {self._tables().execute('SELECT id, state, bot_id FROM actions')}")
        for name in self.ends:
            for at in range(self.replica_count):
                stream = self._client(at).wait(name)
                response = await stream.response()
                self._note_end(stream)
                self._check(name, response)
        for stream in self.streams:
            self._note_end(stream)

    def _note_end(self, stream: Stream) -> None:
        finals = [message for message in stream.seen if message.done]
        if finals:
            [final] = finals
            response = response_of(final).SerializeToString(deterministic=True)
            assert self.ends.setdefault(final.name, None) in (None, response)
            self.ends[final.name] = response

    def _check(self, name: str, response: re.ExecuteResponse) -> None:
        match response.status.code:
            case code_pb2.CANCELLED:
                assert name in self.cancelled
            case code_pb2.OK:
                lease_id = response.result.stdout_raw.decode()
                assert lease_id not in self.stale
                assert any(lease_id in bot.known for bot in self.bots)
            case code_pb2.UNAVAILABLE:
                assert "attempts" in response.status.message
            case _:
                raise AssertionError(response)

    def _prepare(self) -> None:
        self.clock = FakeClock()
        self.patches.setattr(app, "SystemClock", lambda: self.clock)
        self.patches.setattr(upkeep, "_ROUND_SECONDS", 0.01)

    async def _pass_time(self) -> None:
        self.clock.advance(31)
        await asyncio.sleep(0.05)

    async def _open_all(self) -> None:
        for _ in range(self.replica_count):
            self.replicas.append(await self._opened())

    async def _opened(self) -> Replica:
        scheduler = settings_for(
            self.directory,
            bots={"hold_seconds": 0.05, **self._bots_settings()},
            retention_seconds=_FOREVER,
            no_worker_grace_seconds=_FOREVER,
            abandon_after_seconds=0,
        )
        neighbours = Neighbours(cas=InProcessChannel(self.cas), actioncache=InProcessChannel(self.cache))
        replica = Replica()
        await replica.open(scheduler, neighbours)
        return replica

    def _bots_settings(self) -> dict[str, Any]:
        return {}

    async def _close_all(self) -> None:
        for stream in self.streams:
            await stream.close()
        for replica in self.replicas:
            await replica.close()

    def _at(self, number: int) -> InProcessChannel:
        return self.replicas[number % self.replica_count].channel

    def _client(self, number: int) -> Client:
        return Client(self._at(number), self.cas)

    def _tables(self) -> Tables:
        return Tables(self.directory, self.server)


class HistoriesOfReplicas(Histories):
    """Two schedulers over one PostgreSQL; calls go to either, and either may be killed."""

    replica_count = 2

    def __init__(self) -> None:
        super().__init__()
        assert self.server is not None
        self.database = self.server.new_database(TEMPLATE)
        use_postgresql(self.directory, self.server, self.database, replicas=self.replica_count)

    @rule(which=NUMBERS)
    def kill(self, which: int) -> None:
        self.runner.run(self._kill(which % self.replica_count))

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            assert self.server is not None
            self.server.sql(f"DROP DATABASE {self.database} WITH (FORCE)")

    def _prepare(self) -> None:
        super()._prepare()
        # Taken for dead so soon, one that lives is now and then, which must do no harm either.
        self.patches.setattr(heartbeat, "BEAT_SECONDS", 0.05)
        self.patches.setattr(replicas, "DEAD_AFTER_SECONDS", 0.4)
        self.patches.setattr(looks, "EVERY_SECONDS", 0.05)

    async def _kill(self, which: int) -> None:
        with self.patches.context() as patches:
            patches.setattr(replicas, "leave", lambda connection, replica: None)
            await self.replicas[which].kill()
        self.replicas[which] = await self._opened()


def _settings(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        # To shrink a history whose failure is that something never ends takes longer than a test may.
        phases=set(Phase) - {Phase.shrink, Phase.explain},
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def test_any_history_of_one_scheduler_keeps_its_promises() -> None:
    run_state_machine_as_test(Histories, settings=_settings(15, 25))


def test_any_history_of_two_replicas_keeps_its_promises(postgres: PostgresServer) -> None:
    run_state_machine_as_test(_replicas_on(postgres), settings=_settings(8, 20))


@pytest.mark.soak
def test_many_histories_of_one_scheduler() -> None:
    run_state_machine_as_test(Histories, settings=_settings(1_000, 60))


@pytest.mark.soak
def test_many_histories_of_two_replicas(postgres: PostgresServer) -> None:
    run_state_machine_as_test(_replicas_on(postgres), settings=_settings(300, 60))


def _replicas_on(postgres: PostgresServer) -> type[HistoriesOfReplicas]:
    class OnThisServer(HistoriesOfReplicas):
        server = postgres

    return OnThisServer
