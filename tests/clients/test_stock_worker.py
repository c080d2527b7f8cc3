"""An unmodified buildbox-worker on our scheduler: what only the real program can show."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from google.longrunning import operations_pb2
from google.rpc import code_pb2

from gridwright.digest import Digest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.longrunning.operations_rpc import OperationsClient
from gridwright.wire.digests import digest_message
from gridwright_cli.execute.following import Follower
from tests.clients.client_tree import ClientTree, find_client_tree
from tests.clients.stock_worker import (
    OURS_IS_FOR_OTHERS,
    WORKER,
    Line,
    line_to_scheduler,
    stock_worker,
    wait_until,
)
from tests.journeys.build_client import Action, BuildClient, build_client, missing_subjects
from tests.journeys.grid import Grid, running_grid, runs

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(120),
    pytest.mark.may_skip("needs a tree of clients (/opt/sid, or GRIDWRIGHT_CLIENT_TREE)"),
]

LINUX = (("OSFamily", "linux"),)
#: How long the scheduler is away.
AWAY_SECONDS = 5.0
#: By default it gives up after nine seconds, and a restart takes its time on a busy machine.
PATIENT = ("--bots-retry-limit=12", "--bots-retry-delay=100")
CANCELLED_WITHIN_SECONDS = 1.0


@pytest.fixture(scope="module")
def tree() -> ClientTree:
    return find_client_tree(["buildbox-worker", "buildbox-run-hosttools"])


@pytest.fixture(scope="module")
def module_grid(tree: ClientTree) -> Iterator[Grid]:
    with running_grid(environment=OURS_IS_FOR_OTHERS) as grid:
        yield grid


@pytest.fixture
def grid(module_grid: Grid) -> Iterator[Grid]:
    """A grid whose own worker is for something else."""
    mark = module_grid.mark()
    yield module_grid
    print(module_grid.tail(after=mark))


@pytest.fixture
async def client(grid: Grid) -> AsyncIterator[BuildClient]:
    async with build_client(grid.endpoint) as client:
        yield client


@pytest.fixture
async def line(grid: Grid) -> AsyncIterator[Line]:
    async with line_to_scheduler(grid) as line:
        yield line


def shell(script: str, **fields: object) -> Action:
    """Return an action that nobody has run before."""
    return Action(["/bin/sh", "-c", f"{script} # {uuid4()}"], platform=LINUX, **fields)  # type: ignore[arg-type]


class Sleep:
    """An action that sleeps, and whose process can be told from all others."""

    def __init__(self, seconds: float) -> None:
        self._words = ["/bin/sleep", f"{seconds:.1f}{uuid4().int % 10**9:09}"]
        self.action = Action(self._words, platform=LINUX)

    @property
    def runs(self) -> bool:
        """Whether it sleeps now."""
        return runs(self._words)

    async def begin(self, client: BuildClient) -> tuple[str, asyncio.Task[pb.ExecuteResponse]]:
        """Return the name of the operation, and what will become of it, once it sleeps."""
        digest, blobs = self.action.documents()
        await client.upload(blobs)
        name: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def hear(operation: str, _: pb.ExecuteOperationMetadata) -> None:
            if not name.done():
                name.set_result(operation)

        request = pb.ExecuteRequest(instance_name="main", action_digest=digest_message(digest))
        following = asyncio.create_task(Follower(client.channel, start_patience_seconds=60).execute(request, hear))
        await wait_until(lambda: self.runs, 60)
        return await name, following


async def test_it_runs_actions_and_delivers_what_they_made(
    tree: ClientTree, grid: Grid, client: BuildClient, directory: Path
) -> None:
    async with stock_worker(tree, grid, directory):
        for number in range(20):
            action = shell(f"cat in > out; echo {number}", inputs={"in": b"input\n"}, outputs=["out"])
            response = await client.execute(action)
            assert (response.status.code, response.result.exit_code) == (0, 0), response.status.message
            assert response.result.execution_metadata.worker == WORKER
            assert await client.stdout(response.result) == f"{number}\n".encode()
            assert [file.path for file in response.result.output_files] == ["out"]


@pytest.mark.parametrize("age_seconds", [0.5, 7.0])
async def test_a_cancellation_ends_the_process_within_a_second(
    tree: ClientTree, grid: Grid, client: BuildClient, directory: Path, age_seconds: float
) -> None:
    """Of a young job, whose polls are answered at once, and of an older one, whose polls are held."""
    async with stock_worker(tree, grid, directory, jobs=1) as worker:
        took = []
        for _ in range(3):  # this machine has other things to do
            sleep = Sleep(300)
            name, following = await sleep.begin(client)
            await asyncio.sleep(age_seconds)
            request = operations_pb2.CancelOperationRequest(name=name)
            await OperationsClient(client.channel).cancel_operation(request, timeout=30.0)
            took.append(await wait_until(lambda: not sleep.runs, 30))  # noqa: B023 awaited here
            assert (await following).status.code == code_pb2.CANCELLED
            if took[-1] < CANCELLED_WITHIN_SECONDS:
                break
        assert min(took) < CANCELLED_WITHIN_SECONDS
        assert worker.is_alive


async def test_two_leases_run_at_the_same_time(
    tree: ClientTree, grid: Grid, client: BuildClient, directory: Path
) -> None:
    async with stock_worker(tree, grid, directory, jobs=2):
        one, two = Sleep(2), Sleep(2)
        for _, following in await asyncio.gather(one.begin(client), two.begin(client)):
            assert one.runs == two.runs
            assert (await following).result.exit_code == 0


async def test_a_job_goes_on_while_the_scheduler_is_away(
    tree: ClientTree, grid: Grid, client: BuildClient, line: Line, directory: Path
) -> None:
    """It hears UNAVAILABLE for five seconds, and asks again."""
    async with stock_worker(tree, grid, directory, jobs=1, bots_remote=line.address) as worker:
        sleep = Sleep(8)
        _, following = await sleep.begin(client)
        await line.cut()
        await asyncio.sleep(AWAY_SECONDS)
        assert sleep.runs
        await line.mend()
        response = await asyncio.wait_for(following, 60)
        assert (response.status.code, response.result.exit_code, response.message) == (0, 0, "")
        assert worker.is_alive


async def test_a_job_goes_on_through_a_restart_of_the_scheduler(
    tree: ClientTree, grid: Grid, client: BuildClient, line: Line, directory: Path
) -> None:
    async with stock_worker(tree, grid, directory, *PATIENT, jobs=1, bots_remote=line.address) as worker:
        sleep = Sleep(8)
        _, following = await sleep.begin(client)
        await line.cut()
        mark = grid.kill("scheduler")
        await asyncio.sleep(AWAY_SECONDS)
        await asyncio.to_thread(grid.wait_well_again, mark)
        await line.mend()
        response = await asyncio.wait_for(following, 60)
        assert (response.status.code, response.result.exit_code, response.message) == (0, 0, "")
        assert worker.is_alive


async def test_one_behind_the_gateway_needs_no_patience(
    tree: ClientTree, grid: Grid, client: BuildClient, directory: Path
) -> None:
    """The gateway stays, and answers UNAVAILABLE meanwhile."""
    async with stock_worker(tree, grid, directory, jobs=1, bots_remote=f"http://{grid.endpoint}") as worker:
        sleep = Sleep(5)
        _, following = await sleep.begin(client)
        await asyncio.to_thread(grid.wait_well_again, grid.kill("scheduler"))
        response = await asyncio.wait_for(following, 60)
        assert (response.status.code, response.result.exit_code, response.message) == (0, 0, "")
        assert worker.is_alive


async def test_a_scheduler_that_lost_its_state_takes_the_worker_in_and_the_job_ends(
    tree: ClientTree, grid: Grid, client: BuildClient, directory: Path
) -> None:
    async with stock_worker(tree, grid, directory, *PATIENT, jobs=1) as worker:
        sleep = Sleep(300)
        _, following = await sleep.begin(client)
        following.cancel()  # or it executes the action anew, which the worker then does first
        for file in grid.data.rglob("scheduler.db*"):
            if file.suffix != ".lock":
                file.unlink()
        await asyncio.to_thread(grid.wait_well_again, grid.kill("scheduler"))
        await wait_until(lambda: not sleep.runs, 30)
        response = await client.execute(shell("echo well"))
        assert (response.status.code, response.result.execution_metadata.worker) == (0, WORKER)
        assert worker.is_alive


async def test_an_idle_one_that_is_asked_to_leaves_at_once(
    tree: ClientTree, grid: Grid, client: BuildClient, directory: Path
) -> None:
    async with stock_worker(tree, grid, directory) as worker:
        await client.execute(shell("true"))
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.ended(10) == 0


async def test_a_busy_one_that_is_asked_to_leaves_its_job_to_another(
    tree: ClientTree, grid: Grid, client: BuildClient, directory: Path
) -> None:
    """By SIGTERM it kills the job; nobody is to blame."""
    sleep = Sleep(4)
    async with stock_worker(tree, grid, directory, jobs=1) as worker:
        _, following = await sleep.begin(client)
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.ended(10) == 0
    assert not sleep.runs
    async with stock_worker(tree, grid, directory, jobs=1):
        response = await asyncio.wait_for(following, 60)
        assert (response.status.code, response.result.exit_code, response.message) == (0, 0, "")


async def test_a_busy_one_that_is_interrupted_finishes_its_job(
    tree: ClientTree, grid: Grid, client: BuildClient, directory: Path
) -> None:
    """By SIGINT it leaves when that is done."""
    async with stock_worker(tree, grid, directory, jobs=1) as worker:
        sleep = Sleep(4)
        _, following = await sleep.begin(client)
        worker.process.send_signal(signal.SIGINT)
        response = await asyncio.wait_for(following, 60)
        assert (response.status.code, response.result.exit_code, response.message) == (0, 0, "")
        assert await worker.ended(10) == 0


async def test_a_job_that_takes_too_long_ends_by_its_timeout(
    tree: ClientTree, grid: Grid, client: BuildClient, directory: Path
) -> None:
    async with stock_worker(tree, grid, directory):
        response = await client.execute(shell("echo begun; sleep 60", timeout_seconds=1.0))
        assert response.status.code == code_pb2.DEADLINE_EXCEEDED
        assert await client.stdout(response.result) == b"begun\n"


async def test_an_input_that_is_missing_is_named(
    tree: ClientTree, grid: Grid, client: BuildClient, directory: Path
) -> None:
    async with stock_worker(tree, grid, directory):
        absent = os.urandom(100)
        digest, blobs = shell("cat in", inputs={"in": absent}).documents()
        there = {one: data for one, data in blobs.items() if data != absent}
        await client.upload(there)
        response = await client.execute_digest(digest)
        assert response.status.code == code_pb2.FAILED_PRECONDITION
        [missing] = set(blobs) - set(there)
        assert missing_subjects(response.status) == [subject_of(missing)]


async def test_a_program_that_is_missing_is_the_users_affair(
    tree: ClientTree, grid: Grid, client: BuildClient, directory: Path
) -> None:
    async with stock_worker(tree, grid, directory):
        response = await client.execute(Action(["/nowhere/program", str(uuid4())], platform=LINUX))
        assert (response.status.code, response.result.exit_code) == (0, 127)


def subject_of(digest: Digest) -> str:
    return f"blobs/{digest.hash}/{digest.size_bytes}"
