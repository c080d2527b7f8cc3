"""What is left of an action that was cancelled, or that nobody waits for: nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from uuid import uuid4

import pytest
from google.longrunning import operations_pb2

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ExecutionClient
from gridwright.protos.google.longrunning.operations_rpc import OperationsClient
from gridwright.wire.digests import digest_message
from tests.journeys.build_client import Action, BuildClient, build_client
from tests.journeys.grid import Grid, running_grid, runs, wait_until_runs

#: From a cancellation to the end of the last process, on a machine that has nothing better to do; this one may.
PROMISED_SECONDS = 1.0
TRIES = 4


@pytest.fixture(scope="module")
def hasty_grid() -> Iterator[Grid]:
    """A grid that soon gives up what nobody waits for."""
    with running_grid("--slots", "2", environment={"GRIDWRIGHT_SCHEDULER__ABANDON_AFTER_SECONDS": "1"}) as grid:
        yield grid


@pytest.fixture
async def hasty(hasty_grid: Grid) -> AsyncIterator[BuildClient]:
    """A client of that grid."""
    async with build_client(hasty_grid.endpoint) as client:
        yield client


async def test_a_second_after_it_is_cancelled_no_process_of_an_action_is_left(hasty: BuildClient) -> None:
    async def cancel(stream: AsyncIterator[operations_pb2.Operation], name: str) -> None:
        request = operations_pb2.CancelOperationRequest(name=name)
        await OperationsClient(hasty.channel).cancel_operation(request, timeout=30)

    await is_gone_in_time(hasty, cancel)


async def test_a_second_after_it_is_abandoned_no_process_of_an_action_is_left(
    hasty: BuildClient, hasty_grid: Grid
) -> None:
    async def hang_up(stream: AsyncIterator[operations_pb2.Operation], name: str) -> None:
        mark = hasty_grid.mark()
        await stream.aclose()  # type: ignore[attr-defined]  # it is a generator
        await asyncio.to_thread(
            hasty_grid.wait_for,
            lambda line: "operations_abandoned" in line and name in line,
            "to give it up",
            after=mark,
        )

    await is_gone_in_time(hasty, hang_up)


async def is_gone_in_time(
    client: BuildClient, end: Callable[[AsyncIterator[operations_pb2.Operation], str], Awaitable[None]]
) -> None:
    """Have *end* cancel an action of several processes, until they were gone in time once."""
    took = []
    for _ in range(TRIES):
        tree = commands()
        stream, name = await started(client, tree)
        for command in tree:
            await asyncio.to_thread(wait_until_runs, command)
        await end(stream, name)
        began = time.monotonic()
        async with asyncio.timeout(30):
            while any(runs(command) for command in tree):  # noqa: ASYNC110  # a process that ends tells nobody but its parent
                await asyncio.sleep(0.02)
        took.append(time.monotonic() - began)
        if took[-1] <= PROMISED_SECONDS:
            return
    pytest.fail(f"processes were left for {took} s")


def commands() -> list[Sequence[str]]:
    """Return commands that nobody else runs."""
    base = 3_000_000 + time.time_ns() % 1_000_000_000
    return [["sleep", str(base + number)] for number in range(4)]


async def started(
    client: BuildClient, tree: Sequence[Sequence[str]]
) -> tuple[AsyncIterator[operations_pb2.Operation], str]:
    """Execute an action whose processes, children and grandchildren, are those of *tree*; return it, and its name."""
    first, own_session, deaf, below = (" ".join(command) for command in tree)
    script = (
        f"setsid {own_session} & (trap '' TERM; {deaf}; true) & (({below}; true) & wait) & {first}; true # {uuid4()}"
    )
    digest, blobs = Action(["/bin/sh", "-c", script]).documents()
    await client.upload(blobs)
    request = pb.ExecuteRequest(instance_name=client.instance, action_digest=digest_message(digest))
    stream = ExecutionClient(client.channel).execute(request, timeout=60)
    return stream, (await anext(stream)).name
