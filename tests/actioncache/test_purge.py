"""Which results a purge revokes."""

from __future__ import annotations

import pytest

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_actioncache.results.provenance import Provenance, with_provenance
from gridwright_actioncache.results.purge import Condemned, revoke
from tests.actioncache.contract import an_action, walked
from tests.actioncache.result_stores import CountingResultStore, a_memory

STORED = with_provenance(b"\x20\x01", Provenance("ann", "writer", 1000.0, "worker-7"))
BY_THE_SCHEDULER = with_provenance(b"", Provenance("scheduler", "scheduler", 2000.0, "worker-8"))


def old(worker: str, seconds: int | None = None) -> bytes:
    """Return a result that was stored before provenance was kept."""
    result = pb.ActionResult()
    result.execution_metadata.worker = worker
    if seconds is not None:
        result.execution_metadata.worker_completed_timestamp.FromSeconds(seconds)
    return result.SerializeToString()


@pytest.mark.parametrize(
    ("condemned", "document", "holds"),
    [
        (Condemned(worker="worker-7"), STORED, True),
        (Condemned(worker="worker-7"), BY_THE_SCHEDULER, False),
        (Condemned(worker="worker-7"), old("worker-7"), True),
        (Condemned(worker="worker-7"), old("worker-9"), False),
        (Condemned(worker="worker-7"), b"\xff\xff", False),
        (Condemned(subject="ann"), STORED, True),
        (Condemned(subject="ann"), BY_THE_SCHEDULER, False),
        (Condemned(subject="ann"), old("worker-7"), False),
        (Condemned(since=1000.0), STORED, True),
        (Condemned(since=1000.5), STORED, False),
        (Condemned(since=1000.0), old("w", 1000), True),
        (Condemned(since=1000.0), old("w"), False),
        (Condemned(until=1000.5), STORED, True),
        (Condemned(until=1000.0), STORED, False),
        (Condemned(until=1000.0), old("w"), False),
        (Condemned(worker="worker-7", since=1000.0), STORED, True),
        (Condemned(worker="worker-7", since=2000.0), STORED, False),
        (Condemned(worker="worker-8", subject="scheduler", since=1.0, until=3000.0), BY_THE_SCHEDULER, True),
    ],
)
def test_all_that_is_said_must_be_true_of_a_result(condemned: Condemned, document: bytes, holds: bool) -> None:
    assert condemned.holds(document) is holds


async def test_a_page_is_revoked_in_one_call_and_a_dry_run_only_counts() -> None:
    store = CountingResultStore(a_memory())
    bad, good = [an_action() for _ in range(10)], an_action()
    for action in bad:
        await store.put("main", action, STORED)
    await store.put("main", good, BY_THE_SCHEDULER)
    page = await walked(store)
    condemned = Condemned(worker="worker-7")
    assert await revoke(store, "main", page, condemned, dry_run=True) == 10
    assert len(await walked(store)) == 11
    assert await revoke(store, "main", page, condemned, dry_run=False) == 10
    assert store.calls["remove"] == 1
    assert await walked(store) == {good: BY_THE_SCHEDULER}
    assert await revoke(store, "main", {}, condemned, dry_run=False) == 0
    assert store.calls["remove"] == 1
