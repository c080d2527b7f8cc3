"""Why an operation is not done yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.rpc import code_pb2

from gridwright.errors import NotFound
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2
from gridwright.wire.digests import digest_message
from gridwright.wire.request_metadata import metadata_of as request_metadata_of
from tests.scheduler.grid import Grid, Stream, nothing_happens, open_grid

LINUX = ("OSFamily", "linux")


async def test_without_workers_it_says_so(grid: Grid) -> None:
    stream = await started(grid, "true")
    found = await why(grid, stream)
    assert (found["stage"], found["operation"]) == ("queued", stream.name)
    assert (found["before_in_queue"], found["before_in_flow"]) == (0, 0)
    assert (found["able_workers"], found["free_workers"], found["lacks_any"]) == (0, 0, [])
    assert found["why"].endswith("no worker is connected")
    age = datetime.now(UTC) - datetime.fromisoformat(found["since"])
    assert timedelta(seconds=-1) < age < timedelta(seconds=60)


async def test_it_says_how_many_come_before_it_of_its_own_build_and_of_others(grid: Grid) -> None:
    streams = []
    for build, count in (("one", 2), ("two", 3)):
        streams += [await started(grid, build, str(number), invocation=build) for number in range(count)]
    places = []
    for stream in streams:
        found = await why(grid, stream)
        places.append((found["before_in_flow"], found["before_in_queue"]))
    # The builds take turns, whoever came first.
    assert [flow for flow, _ in places] == [0, 1, 0, 1, 2]
    assert sorted(queue for _, queue in places) == [0, 1, 2, 3, 4]


async def test_it_names_the_property_that_no_worker_has(grid: Grid) -> None:
    await grid.worker(properties=(LINUX, ("ISA", "x86")))
    found = await why(grid, await started(grid, "true", properties=[LINUX, ("ISA", "arm")]))
    assert found["lacks_any"] == ["ISA=arm"]
    assert found["why"].endswith("no worker has the platform property ISA=arm: workers offer x86")


async def test_it_names_the_property_that_no_worker_with_room_has(grid: Grid) -> None:
    idle = (await grid.worker("idle", properties=(LINUX, ("ISA", "x86")))).poll()
    assert await nothing_happens(idle)
    arm = await grid.worker("arm", properties=(LINUX, ("ISA", "arm")))
    await started(grid, "first", properties=[LINUX, ("ISA", "arm")])
    await arm.take()
    found = await why(grid, await started(grid, "second", properties=[LINUX, ("ISA", "arm")]))
    assert (found["able_workers"], found["free_workers"]) == (1, 0)
    assert (found["lacks_any"], found["lacks_free"]) == ([], ["ISA=arm"])
    assert found["why"].endswith("1 worker could run it, and all are busy; no worker with room has ISA=arm")
    idle.cancel()


async def test_a_worker_that_is_unhealthy_is_told_apart_from_a_busy_one(grid: Grid) -> None:
    worker = await grid.worker()
    worker.session.status = bots_pb2.UNHEALTHY
    await worker.update()
    found = await why(grid, await started(grid, "true"))
    assert (found["able_workers"], found["free_workers"]) == (1, 0)
    assert "take no work" in found["why"]


async def test_it_says_when_only_a_worker_of_ours_could_take_it(grid: Grid) -> None:
    await grid.worker(ours=False)
    command = pb.Command(arguments=["true"], output_files=["out"])
    found = await why(grid, await started(grid, command=command))
    assert (found["gridwright_worker_only"], found["able_workers"]) == (True, 0)
    assert "only a Gridwright worker can take it" in found["why"]


async def test_of_what_runs_it_names_the_worker_and_of_what_has_run_too(grid: Grid) -> None:
    stream = await started(grid, "true")
    worker = await grid.worker()
    [lease] = await worker.take()
    running = await why(grid, stream)
    assert (running["stage"], running["worker"]) == ("executing", "worker-1")
    assert running["why"].startswith("worker worker-1 has it, for ")
    worker.finish(lease.id, pb.ActionResult())
    await worker.update()
    await stream.response()
    done = await why(grid, stream)
    assert (done["stage"], done["why"]) == ("completed", "worker worker-1 has run it")


async def test_of_another_attempt_it_tells_what_became_of_the_first(grid: Grid) -> None:
    stream = await started(grid, "true")
    worker = await grid.worker()
    [lease] = await worker.take()
    worker.session.status = bots_pb2.UNHEALTHY
    worker.finish(lease.id, None, code_pb2.INTERNAL, "no space")
    await worker.update()
    await stream.until(pb.ExecutionStage.QUEUED)
    found = await why(grid, stream)
    assert "this is attempt 2: worker worker-1 reported INTERNAL: no space" in found["why"]


async def test_of_what_was_cancelled_or_refused_it_says_that(grid: Grid) -> None:
    stream = await started(grid, "true")
    await grid.client.cancel(stream.name)
    assert (await why(grid, stream))["why"] == "it was cancelled"
    other = await started(grid, "false")
    worker = await grid.worker()
    [lease] = await worker.take()
    worker.finish(lease.id, None, code_pb2.INVALID_ARGUMENT, "nonsense")
    await worker.update()
    await other.response()
    assert (await why(grid, other))["why"] == "INVALID_ARGUMENT: nonsense"


async def test_of_what_was_answered_at_once_it_says_why(tmp_path: Path, one_replica: None) -> None:
    async with open_grid(tmp_path) as grid:
        digest = await grid.client.upload("true")
        grid.cache.results["main", digest.hash] = pb.ActionResult()
        hit = grid.client.execute(digest)
        await hit.response()
        assert (await why(grid, hit))["why"].endswith("the action cache had its result")
        absent = digest_message(digest.function.digest(b"absent"))
        refused = grid.client.execute(await grid.client.upload("x", command_digest=absent))
        await refused.response()
        assert "FAILED_PRECONDITION" in (await why(grid, refused))["why"]


@pytest.mark.parametrize("name", ["", "main/nothing", "nowhere/nothing", "main/\0", "x" * 5000])
async def test_of_what_it_does_not_know_it_says_so(grid: Grid, name: str) -> None:
    with pytest.raises(NotFound):
        await grid.answers[0]["why"](name)


async def started(
    grid: Grid, *arguments: str, invocation: str = "", properties: Sequence[tuple[str, str]] = (), **upload: Any
) -> Stream:
    """Execute *arguments*; return when the operation is there."""
    digest = await grid.client.upload(*arguments, properties=properties, **upload)
    metadata = request_metadata_of(pb.RequestMetadata(tool_invocation_id=invocation)) if invocation else ()
    request = pb.ExecuteRequest(instance_name="main", action_digest=digest_message(digest))
    stream = Stream(grid.client.execution.execute(request, timeout=60.0, metadata=metadata))
    await stream.next()
    return stream


async def why(grid: Grid, stream: Stream) -> Mapping[str, Any]:
    """Ask the admin page of one of the schedulers."""
    return await grid.answers[-1]["why"](stream.name)
