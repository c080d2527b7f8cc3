"""The worker against a scripted scheduler: leases in, results out, whatever happens in between."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.rpc import code_pb2, error_details_pb2

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import read_blob
from gridwright.digest import DigestFunction
from gridwright.errors import ConfigurationError, InvalidRequest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.devtools.remoteworkers.v1test2 import bots_pb2
from gridwright.settings import validate_settings
from gridwright.version import VERSION
from gridwright.wire.call import Call
from gridwright.wire.process import EXIT_CONFIG, Process
from gridwright_worker.app import open_app
from gridwright_worker.config import WorkerFile
from tests.worker.actions import SHA256, digest_of, message_of, put_action
from tests.worker.processes import alive, holds, until
from tests.worker.scripted_scheduler import ScriptedScheduler, serving_cas, serving_on


@dataclass
class Stage:
    """A scheduler and a CAS that wait for a worker."""

    directory: Path
    scheduler: ScriptedScheduler = field(default_factory=ScriptedScheduler)
    store: MemoryStore = field(default_factory=lambda: MemoryStore(max_bytes=2**30))

    def settings(self, **worker: Any) -> dict[str, Any]:
        return {
            "endpoints": {"cas": f"unix:{self.directory}/cas", "scheduler": f"unix:{self.directory}/bots"},
            "worker": {"admin": f"unix:{self.directory}/admin", "root": f"{self.directory}/w", "slots": 2} | worker,
        }

    async def give(self, line: str, function: DigestFunction = SHA256, **rest: Any) -> str:
        return await self.scheduler.give(await put_action(self.store, line, function=function, **rest), function)

    async def text(self, digest: pb.Digest) -> str:
        return (await read_blob(self.store, digest_of(digest))).decode()


@pytest.fixture
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    # A short path: those of Unix sockets have at most 107 bytes.
    directory = tmp_path_factory.mktemp("w")
    stage = Stage(directory)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serving_cas(directory / "cas", stage.store))
        yield stage


@asynccontextmanager
async def working(stage: Stage, **worker: Any) -> AsyncIterator[Process]:
    """Run a worker in this process."""
    process = Process()
    settings = validate_settings(WorkerFile, stage.settings(**worker), source="the test")
    async with open_app(settings, process):
        yield process


@asynccontextmanager
async def scheduling(stage: Stage) -> AsyncIterator[None]:
    async with serving_on(stage.directory / "bots", stage.scheduler):
        yield


async def test_a_pending_lease_is_executed_and_its_result_told(stage: Stage) -> None:
    async with scheduling(stage), working(stage, name="w1"):
        lease = await stage.give("echo hello; exit 3")
        result = await stage.scheduler.result(lease)
        assert (result.exit_code, await stage.text(result.stdout_digest)) == (3, "hello\n")
        assert result.execution_metadata.worker == "w1"
        assert result.execution_metadata.HasField("worker_completed_timestamp")


@pytest.mark.parametrize("function", [DigestFunction.BLAKE3, DigestFunction.SHA1])
async def test_a_lease_has_the_digest_function_that_the_trailer_names(stage: Stage, function: DigestFunction) -> None:
    async with scheduling(stage), working(stage):
        result = await stage.scheduler.result(await stage.give("echo x", function))
        assert result.stdout_digest == message_of(function.digest(b"x\n"))


async def test_a_worker_says_what_it_offers(stage: Stage) -> None:
    async with scheduling(stage), working(stage, name="w1", platform={"OSFamily": "linux", "pool": ["a", "b"]}):
        told = await stage.scheduler.until_told(lambda told: True)
    [device] = told.worker.devices
    offered = [("OSFamily", "linux"), ("pool", "a"), ("pool", "b")]
    assert (told.bot_id, device.handle) == ("w1", "w1")
    assert [(one.key, one.value) for one in device.properties] == offered
    assert [(one.key, one.value) for one in told.worker.properties] == [*offered, ("gridwright", VERSION)]
    assert [(one.key, one.value) for one in told.worker.configs] == [("capacity", "2")]


async def test_as_many_actions_run_at_once_as_there_are_slots(stage: Stage) -> None:
    meeting = stage.directory / "meeting"
    line = f"echo here >> {meeting}; while [ $(wc -l < {meeting}) -lt 2 ]; do sleep 0.01; done"
    async with scheduling(stage), working(stage):
        leases = [await stage.give(f"{line} # {number}") for number in range(2)]
        for lease in leases:
            assert (await stage.scheduler.result(lease)).exit_code == 0


async def test_many_actions_in_a_row_are_all_done(stage: Stage) -> None:
    async with scheduling(stage), working(stage):
        leases = [await stage.give(f"echo {number}") for number in range(30)]
        results = [await stage.scheduler.result(lease) for lease in leases]
        texts = [await stage.text(result.stdout_digest) for result in results]
        assert texts == [f"{number}\n" for number in range(30)]


async def test_a_lease_that_is_taken_back_is_killed_within_a_second(stage: Stage) -> None:
    pids = stage.directory / "pids"
    async with scheduling(stage), working(stage):
        lease = await stage.give(f"(setsid sleep 1000 & echo $! >> {pids}); echo $$ end >> {pids}; sleep 1000")
        await until(lambda: holds(pids, "end"))
        await stage.scheduler.take_back(lease)
        await until(lambda: alive(pids.read_text().replace("end", "").split()) == [], seconds=1)
        assert (await stage.scheduler.result(await stage.give("true"))).exit_code == 0


async def test_while_the_scheduler_is_away_actions_go_on_and_their_results_wait(stage: Stage) -> None:
    release = stage.directory / "release"
    async with working(stage):
        async with scheduling(stage):
            lease = await stage.give(f"while [ ! -e {release} ]; do sleep 0.02; done; echo done")
            await stage.scheduler.until_told(lambda told: any(one.id == lease for one in told.leases))
        release.touch()
        await asyncio.sleep(2)
        async with scheduling(stage):
            result = await stage.scheduler.result(lease)
            assert await stage.text(result.stdout_digest) == "done\n"
    assert len(stage.scheduler.sessions) == 1


async def test_a_scheduler_that_comes_late_is_waited_for(stage: Stage) -> None:
    async with working(stage):
        lease = await stage.give("true")
        await asyncio.sleep(0.3)
        async with scheduling(stage):
            assert (await stage.scheduler.result(lease)).exit_code == 0


async def test_a_scheduler_that_does_not_know_the_session_gets_a_new_one_with_the_results(stage: Stage) -> None:
    release = stage.directory / "release"
    stage.scheduler.adopts = False
    async with scheduling(stage), working(stage):
        lease = await stage.give(f"while [ ! -e {release} ]; do sleep 0.02; done")
        await stage.scheduler.until_told(lambda told: any(one.id == lease for one in told.leases))
        stage.scheduler.forget_sessions()
        release.touch()
        assert (await stage.scheduler.result(lease)).exit_code == 0


async def test_missing_inputs_are_told_with_their_violations(stage: Stage) -> None:
    lost = SHA256.digest(b"lost")
    action = await put_action(stage.store, "true")
    action.input_root_digest.CopyFrom(message_of(lost))
    async with scheduling(stage), working(stage):
        lease = await stage.scheduler.ended(await stage.scheduler.give(action))
    failure = error_details_pb2.PreconditionFailure()
    assert lease.status.code == code_pb2.FAILED_PRECONDITION
    assert lease.status.details[0].Unpack(failure)
    assert [(one.type, one.subject) for one in failure.violations] == [("MISSING", f"blobs/{lost}")]


async def test_a_timed_out_action_is_told_with_what_it_left(stage: Stage) -> None:
    async with scheduling(stage), working(stage, kill_grace_seconds=0.1):
        lease = await stage.scheduler.ended(await stage.give("echo partial; sleep 1000", timeout_seconds=0.2))
        result = pb.ActionResult()
        lease.result.Unpack(result)
        assert lease.status.code == code_pb2.DEADLINE_EXCEEDED
        assert await stage.text(result.stdout_digest) == "partial\n"


async def test_an_action_that_makes_no_sense_is_told_as_such(stage: Stage) -> None:
    async with scheduling(stage), working(stage):
        lease = await stage.scheduler.ended(await stage.give("true", output_paths=["/abs"]))
        assert lease.status.code == code_pb2.INVALID_ARGUMENT
        lease = await stage.scheduler.ended(await stage.scheduler.give(pb.Action()))
        assert lease.status.code == code_pb2.INVALID_ARGUMENT


async def test_the_status_page_shows_slots_cache_and_session(stage: Stage) -> None:
    async with scheduling(stage), working(stage, name="w1"):
        lease = await stage.give("sleep 1000", inputs={"in": "x"})
        await stage.scheduler.until_told(lambda told: bool(told.leases))
        transport = httpx.AsyncHTTPTransport(uds=str(stage.directory / "admin"))
        async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
            status = (await client.get("/status")).json()
            metrics = (await client.get("/metrics")).text
        assert status["worker"] == "w1"
        assert status["bots"]["state"] == "connected"
        assert {slot["state"] for slot in status["slots"]} == {"idle", "running"}
        assert lease in json.dumps(status["slots"])
        assert status["cache"].keys() >= {"files", "used_bytes", "max_bytes"}
        assert "gridwright_worker_running_actions 1.0" in metrics
        await stage.scheduler.take_back(lease)


async def test_two_workers_cannot_use_one_directory(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridwright_worker.app._ROOT_SECONDS", 0.1)
    async with scheduling(stage), working(stage):
        with pytest.raises(ConfigurationError, match="another worker uses"):
            async with working(stage, admin=f"unix:{stage.directory}/admin2"):
                pass


@asynccontextmanager
async def worker_process(
    stage: Stage, *, stderr: int | None = None, **worker: Any
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a worker as a process of its own, and end it."""
    config = stage.directory / "grid.yaml"
    config.write_text(json.dumps(stage.settings(**worker)))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gridwright_worker", "--config", str(config), stderr=stderr
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ended(process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(20):
        return await process.wait()


async def test_an_idle_worker_that_is_told_to_stop_says_so_and_leaves(stage: Stage) -> None:
    async with scheduling(stage), worker_process(stage) as process:
        await stage.scheduler.until_told(lambda told: told.status == bots_pb2.OK)
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 0
    assert stage.scheduler.told[-1].status == bots_pb2.BOT_TERMINATING


async def test_a_worker_without_a_scheduler_stops_as_well(stage: Stage) -> None:
    async with worker_process(stage) as process:
        await until(lambda: (stage.directory / "admin").exists(), seconds=20)
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 0


class Choosy(ScriptedScheduler):
    async def create_bot_session(self, request: bots_pb2.CreateBotSessionRequest, call: Call) -> bots_pb2.BotSession:
        raise InvalidRequest("capacity '2' is too much", field="bot_session.worker.configs")


async def test_a_worker_that_the_scheduler_will_never_have_says_why_and_ends(stage: Stage) -> None:
    stage.scheduler = Choosy()
    async with scheduling(stage), worker_process(stage, stderr=asyncio.subprocess.PIPE) as process:
        _, said = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == EXIT_CONFIG
    assert b"the scheduler refuses this worker: capacity '2' is too much" in said


async def test_a_busy_worker_that_is_told_to_stop_finishes_and_takes_nothing_new(stage: Stage) -> None:
    release = stage.directory / "release"
    async with scheduling(stage), worker_process(stage) as process:
        lease = await stage.give(f"while [ ! -e {release} ]; do sleep 0.02; done; echo done")
        await stage.scheduler.until_told(lambda told: bool(told.leases))
        process.send_signal(signal.SIGTERM)
        await stage.scheduler.until_told(lambda told: told.status == bots_pb2.BOT_TERMINATING)
        late = await stage.give("echo late")
        release.touch()
        result = await stage.scheduler.result(lease)
        assert await stage.text(result.stdout_digest) == "done\n"
        assert await ended(process) == 0
    assert not any(one.id == late for told in stage.scheduler.told for one in told.leases)


async def test_a_worker_that_may_not_wait_longer_hands_its_actions_back(stage: Stage) -> None:
    pids = stage.directory / "pids"
    async with scheduling(stage), worker_process(stage, drain_seconds=0.1) as process:
        lease = await stage.give(f"echo $$ end > {pids}; sleep 1000")
        await until(lambda: holds(pids, "end"), seconds=20)
        process.send_signal(signal.SIGTERM)
        told = await stage.scheduler.ended(lease)
        assert told.status.code == code_pb2.UNAVAILABLE
        assert await ended(process) == 0
    assert alive(pids.read_text().split()[:1]) == []


async def test_a_worker_that_is_killed_leaves_nothing_running_and_can_be_started_again(stage: Stage) -> None:
    pids = stage.directory / "pids"
    async with scheduling(stage):
        async with worker_process(stage) as process:
            lease = await stage.give(f"(setsid sleep 1000 & echo $! >> {pids}); echo $$ end >> {pids}; sleep 1000")
            await until(lambda: holds(pids, "end"), seconds=20)
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
            await until(lambda: alive(pids.read_text().replace("end", "").split()) == [], seconds=1)
        await stage.scheduler.take_back(lease)
        async with worker_process(stage):
            assert (await stage.scheduler.result(await stage.give("true"))).exit_code == 0
