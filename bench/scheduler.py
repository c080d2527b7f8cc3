"""A scheduler by itself: what an action costs it, how soon a worker is told of one, and what idle bots cost."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from bench.execute_clients import Executions, execute, make_actions, requests_for
from bench.instant_bots import PLATFORM, Bots, instant_bots
from bench.prefilled_queue import fill_queue
from bench.report import print_table
from bench.scheduler_process import SchedulerProcess, own_scheduler
from gridwright.wire.grpc_channel import GrpcChannel

_MIB = 2**20
#: Actions of the run that nothing is measured in: connections, statements and caches are warm after it.
_WARM_UP = 500
_LONE_ACTIONS = 300
#: PostgreSQL's connections tell what they did once a second, those of a scheduler make a transaction more often.
_TOLD_SECONDS = 2.5
_IDLE_SECONDS = 5.0
#: What the backlog of a served platform is worked off at: so many slots, each for so long.
_BUSY_SECONDS = 0.5
_SOONER = -1
#: A short backlog has to be added to all the time, by a client; a long one is there before, and does not end.
_MOST_BY_CLIENT = 1_000
_OTHER_PLATFORM = ("OSFamily", "plan9")


@dataclass(frozen=True, slots=True)
class Load:
    """What the command line says."""

    database: str
    actions: int
    in_flight: int
    bots: int
    capacity: int
    repeat: int


@dataclass(frozen=True, slots=True)
class _Counts:
    """What the processes have done so far."""

    at: float
    scheduler_seconds: float
    database_seconds: float
    cas_seconds: float
    cache_seconds: float
    transactions: int
    polls: float


async def bench_scheduler(data: Path, load: Load) -> None:
    """Execute actions as fast as it goes, and one at a time; print the medians."""
    with tempfile.TemporaryDirectory(prefix="scheduler-", dir=data) as directory:
        async with (
            own_scheduler(Path(directory), load.database) as scheduler,
            instant_bots(Bots(scheduler.endpoint, load.bots, load.capacity)),
        ):
            idle = await _idle(scheduler)
            await execute(Executions(scheduler.endpoint, await _requests(scheduler, _WARM_UP), load.in_flight))
            rows = []
            for in_flight, actions in ((load.in_flight, load.actions), (1, _LONE_ACTIONS)):
                runs = [await _measure(scheduler, actions, in_flight, idle) for _ in range(load.repeat)]
                cells = {name: f"{statistics.median(run[name] for run in runs):,.3g}" for name in runs[0]}
                cells["actions/s"] = f"{statistics.median(run['actions/s'] for run in runs):,.0f}"
                rows.append({"in flight": f"{in_flight:,}", "actions": f"{actions:,}", **cells})
            anonymous = scheduler.service.anonymous_bytes() / _MIB
    print_table(
        f"Execute to final message, {load.database}, {load.bots} bots of {load.capacity} (median of {load.repeat}); "
        f"transactions per second of the scheduler when nothing is to be done: {idle:.1f}",
        rows,
    )
    print(f"anonymous memory of the scheduler: {anonymous:.0f} MiB")


async def bench_told(data: Path, load: Load, *, rate: float, queued: Sequence[int]) -> None:
    """Execute *rate* actions a second, with *queued* others in the queue; print how soon a worker is told of each.

    Those others are of a platform that no bot has, or of the same one and less urgent: then all bots are busy
    with them all the time, and what is waited for is the next of them to be done.
    """
    rows = []
    for served in (False, True):
        for count in queued:
            with tempfile.TemporaryDirectory(prefix="scheduler-", dir=data) as directory:
                async with own_scheduler(Path(directory), load.database) as scheduler:
                    rows.append(await _told(scheduler, load, rate, count, served=served))
    print_table(f"Execute sent to worker told, {load.database}, {rate:g} actions/s, {load.bots} bots", rows)


async def bench_idle_bots(data: Path, load: Load, *, bots: int, connections: int, seconds: float) -> None:
    """Hold the polls of *bots* that have nothing to do; print what that takes."""
    with tempfile.TemporaryDirectory(prefix="scheduler-", dir=data) as directory:
        async with own_scheduler(Path(directory), load.database) as scheduler:
            empty = scheduler.service.anonymous_bytes()
            async with instant_bots(Bots(scheduler.endpoint, bots, connections=connections)):
                await asyncio.sleep(_IDLE_SECONDS)
                before = await _counts(scheduler)
                peak = 0
                while time.monotonic() < before.at + seconds:
                    await asyncio.sleep(1)
                    peak = max(peak, scheduler.service.anonymous_bytes())
                after = await _counts(scheduler)
                # They are still served.
                await execute(Executions(scheduler.endpoint, await _requests(scheduler, 100), 10))
    passed = after.at - before.at
    row = {
        "bots": f"{bots:,}",
        "connections": f"{connections:,}",
        "RssAnon MiB": f"{peak / _MIB:.0f}",
        "without bots": f"{empty / _MIB:.0f}",
        "share of a core": f"{(after.scheduler_seconds - before.scheduler_seconds) / passed:.1%}",
        "database": f"{(after.database_seconds - before.database_seconds) / passed:.1%}",
        "transactions/s": f"{(after.transactions - before.transactions) / passed:.1f}",
    }
    print_table(f"Idle bots, {load.database}, {passed:.0f} s", [row])


async def _measure(scheduler: SchedulerProcess, actions: int, in_flight: int, idle: float) -> dict[str, float]:
    """Return what *actions* took each; *idle* transactions per second are not theirs."""
    requests = await _requests(scheduler, actions)
    before = await _counts(scheduler)
    executed = await execute(Executions(scheduler.endpoint, requests, in_flight))
    busy = await _counts(scheduler, wait=False)
    after = await _counts(scheduler)
    transactions = after.transactions - before.transactions - idle * (after.at - before.at)
    latencies = [(ended - sent) * 1000 for sent, ended in executed.calls]
    return {
        "actions/s": executed.per_second,
        "p50 ms": statistics.median(latencies),
        "p99 ms": statistics.quantiles(latencies, n=100)[98],
        "scheduler ms": (busy.scheduler_seconds - before.scheduler_seconds) / actions * 1000,
        "transactions": transactions / actions,
        "database ms": (busy.database_seconds - before.database_seconds) / actions * 1000,
        "CAS ms": (busy.cas_seconds - before.cas_seconds) / actions * 1000,
        "cache ms": (busy.cache_seconds - before.cache_seconds) / actions * 1000,
        "polls": (busy.polls - before.polls) / actions,
    }


async def _requests(scheduler: SchedulerProcess, actions: int) -> Sequence[bytes]:
    async with GrpcChannel(scheduler.cas.endpoint) as cas:
        return requests_for(await make_actions(cas, actions, PLATFORM, salted=False))


async def _told(scheduler: SchedulerProcess, load: Load, rate: float, queued: int, *, served: bool) -> dict[str, str]:
    by_client = served and queued <= _MOST_BY_CLIENT
    slots = load.bots * load.capacity
    async with GrpcChannel(scheduler.cas.endpoint) as cas:
        warm = requests_for(await make_actions(cas, _WARM_UP, PLATFORM, salted=False), priority=_SOONER)
        measured = requests_for(await make_actions(cas, load.actions, PLATFORM, salted=True), priority=_SOONER)
        others = int(slots / _BUSY_SECONDS * load.actions / rate) + slots + queued if by_client else 1
        backlog = requests_for(await make_actions(cas, others, PLATFORM if served else _OTHER_PLATFORM, salted=False))
    if not by_client:
        await fill_queue(scheduler, backlog[0], queued)
    hold_seconds = _BUSY_SECONDS if served else 0.0
    async with instant_bots(Bots(scheduler.endpoint, load.bots, load.capacity, hold_seconds=hold_seconds)) as bots:
        async with asyncio.TaskGroup() as group:
            if by_client:
                group.create_task(execute(Executions(scheduler.endpoint, backlog, slots + queued)))
            await execute(Executions(scheduler.endpoint, warm, load.in_flight))
            executed = await execute(Executions(scheduler.endpoint, measured, len(measured), rate))
        await bots.stop()  # not before the others in the queue are done with as well
    told = sorted((bots.told[number] - sent) * 1000 for number, (sent, _) in enumerate(executed.calls))
    return {
        "queued besides": f"{queued:,}",
        "of a platform": "that is served" if served else "nobody has",
        "p50 ms": f"{told[len(told) // 2]:.1f}",
        "p99 ms": f"{told[len(told) * 99 // 100]:.1f}",
        "max ms": f"{told[-1]:.1f}",
    }


async def _idle(scheduler: SchedulerProcess) -> float:
    before = await _counts(scheduler)
    await asyncio.sleep(_IDLE_SECONDS)
    after = await _counts(scheduler)
    return (after.transactions - before.transactions) / (after.at - before.at)


async def _counts(scheduler: SchedulerProcess, *, wait: bool = True) -> _Counts:
    postgresql = scheduler.postgresql
    if wait and postgresql is not None:
        await asyncio.sleep(_TOLD_SECONDS)
    return _Counts(
        time.monotonic(),
        scheduler.service.cpu_seconds(),
        0.0 if postgresql is None else postgresql.cpu_seconds(),
        scheduler.cas.cpu_seconds(),
        scheduler.action_cache.cpu_seconds(),
        0 if postgresql is None else await postgresql.transactions(),
        await _polls(scheduler),
    )


async def _polls(scheduler: SchedulerProcess) -> float:
    """Return how many calls of bots it has answered."""
    families = text_string_to_metric_families(await scheduler.service.metrics())
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "gridwright_rpc_server_calls_total" and sample.labels["method"] == "UpdateBotSession"
    )
