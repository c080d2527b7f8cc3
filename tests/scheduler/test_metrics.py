"""What /metrics says of a scheduler that did something."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from gridwright.wire.in_process_channel import InProcessChannel
from gridwright.wire.process import Process
from gridwright_scheduler import upkeep
from gridwright_scheduler.app import Neighbours, open_scheduler
from gridwright_scheduler.metrics import QueueMetrics
from gridwright_scheduler.queue.names import PlatformId
from gridwright_scheduler.queue.platform import Requirements
from tests.scheduler.grid import Client, settings_for
from tests.scheduler.neighbours import FakeActionCache, FakeCas
from tests.scheduler.scripted_worker import ScriptedWorker

QUEUED, EXECUTING = re.ExecutionStage.QUEUED, re.ExecutionStage.EXECUTING
LINUX = {"OSFamily": "linux"}


class Watched:
    """A scheduler by itself, and what it tells of itself."""

    def __init__(self, channel: InProcessChannel, cas: FakeCas, registry: CollectorRegistry) -> None:
        self.channel = channel
        self.client = Client(channel, cas)
        self._registry = registry

    def value(self, name: str, **labels: str) -> float | None:
        """Return the sample ``gridwright_scheduler_NAME`` as it is now."""
        return self._registry.get_sample_value(f"gridwright_scheduler_{name}", labels)

    async def until(self, name: str, expected: float, **labels: str) -> None:
        """Wait for a sample that is taken now and then."""
        async with asyncio.timeout(10):
            while self.value(name, **labels) != expected:  # noqa: ASYNC110  # nobody tells of it
                await asyncio.sleep(0.01)

    async def worker(self, bot_id: str = "worker-1", *, capacity: int = 1) -> ScriptedWorker:
        """Return a worker whose session has begun."""
        worker = ScriptedWorker(self.channel, bot_id, capacity=capacity)
        await worker.create()
        return worker


@pytest.fixture
async def watched(tmp_path: Path, one_replica: None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    monkeypatch.setattr(upkeep, "_ROUND_SECONDS", 0.01)
    cas, process = FakeCas(), Process()
    neighbours = Neighbours(cas=InProcessChannel(cas), actioncache=InProcessChannel(FakeActionCache()))
    async with open_scheduler(settings_for(tmp_path), neighbours, process) as scheduler:
        yield Watched(InProcessChannel(*scheduler.servicers), cas, process.registry)
        scheduler.end_what_is_held()


async def test_execute_calls_are_counted_by_how_they_were_answered(watched: Watched) -> None:
    digest = await watched.client.upload("true", properties=LINUX)
    first, second = watched.client.execute(digest), watched.client.execute(digest)
    await first.until(QUEUED)
    await second.until(QUEUED)
    await (await watched.worker()).run()
    assert not (await first.response()).cached_result
    assert not (await second.response()).cached_result
    assert (await watched.client.execute(digest).response()).cached_result
    counts = {how: watched.value("operations_total", how=how) for how in ("new", "joined", "cached")}
    assert counts == {"new": 1, "joined": 1, "cached": 1}
    assert watched.value("actions_completed_total") == 1


async def test_the_queue_is_told_by_instance_and_platform_and_stays_when_it_is_empty(watched: Watched) -> None:
    labels = {"instance": "main", "platform": "ISA=arm64,OSFamily=linux"}
    digest = await watched.client.upload("true", properties=[("OSFamily", "linux"), ("ISA", "arm64")])
    stream = watched.client.execute(digest)
    await stream.until(QUEUED)
    await watched.until("actions_queued", 1, **labels)
    await watched.client.cancel(stream.name)
    await watched.until("actions_queued", 0, **labels)


async def test_waiting_running_and_attempts_are_timed(watched: Watched) -> None:
    stream = watched.client.execute(await watched.client.upload("true", properties=LINUX))
    await stream.until(QUEUED)
    lost = await watched.worker()
    await lost.take()
    await lost.create()  # and knows nothing of what it had
    await (await watched.worker("worker-2")).run()
    await stream.response()
    assert watched.value("wait_seconds_count") == 1
    assert watched.value("assignment_seconds_count") == 1
    waited, together = watched.value("wait_seconds_sum"), watched.value("assignment_seconds_sum")
    assert waited is not None
    assert together is not None
    assert waited >= together > 0
    assert watched.value("run_seconds_count") == 2
    assert watched.value("actions_requeued_total") == 1
    assert watched.value("attempts_bucket", le="1.0") == 0
    assert watched.value("attempts_bucket", le="2.0") == 1


async def test_workers_are_counted_by_their_state(watched: Watched) -> None:
    for number in range(2):
        await watched.client.execute(await watched.client.upload(str(number), properties=LINUX)).until(QUEUED)
    await watched.worker("not-ready")
    await (await watched.worker("full")).take()
    await (await watched.worker("busy", capacity=2)).take()
    polls = [(await watched.worker("idle")).poll()]
    await watched.until("workers", 1, state="idle")
    assert {state: watched.value("workers", state=state) for state in ("busy", "full", "unhealthy")} == {
        "busy": 1,
        "full": 1,
        "unhealthy": 1,
    }
    assert watched.value("leases") == 2
    for poll in polls:
        poll.cancel()


async def test_transactions_are_timed(watched: Watched) -> None:
    before = watched.value("database_seconds_count", kind="write")
    await watched.client.execute(await watched.client.upload("true")).until(QUEUED)
    after = watched.value("database_seconds_count", kind="write")
    assert before is not None
    assert after is not None
    assert after > before
    assert watched.value("database_failures_total") == 0


def test_platforms_beyond_a_number_are_told_together_and_the_longest_queues_apart() -> None:
    registry = CollectorRegistry()
    metrics = QueueMetrics(registry)

    def depth(platform: str) -> float | None:
        labels = {"instance": "main", "platform": platform}
        return registry.get_sample_value("gridwright_scheduler_actions_queued", labels)

    queued = {
        PlatformId(str(number)): (Requirements("main", (("pool", str(number)),), ours_only=False), number)
        for number in range(1, 301)
    }
    metrics.counted(queued)
    assert depth("pool=300") == 300
    assert depth("pool=1") is None
    assert depth("others") == sum(range(1, 201))
    metrics.counted({})
    assert depth("pool=300") == 0
    metrics.not_counted()
    assert depth("pool=300") is None
