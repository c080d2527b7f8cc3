"""Which slot an action gets."""

from __future__ import annotations

import asyncio

import pytest

from gridwright.clock import SystemClock
from gridwright.digest import DigestFunction
from gridwright.errors import InternalError, InvalidRequest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_worker.execution.executor import Executor
from gridwright_worker.payload import Payload
from gridwright_worker.slots import Slots

PAYLOAD = Payload(pb.Action(), DigestFunction.SHA256)


class ScriptedExecutor(Executor):
    """Says which slot it is of, or raises what it is told to."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.failure: BaseException | None = None

    async def execute(self, action: pb.Action, function: DigestFunction) -> pb.ActionResult:
        if self.failure:
            raise self.failure
        return pb.ActionResult(exit_code=self._number)

    async def close(self) -> None:
        pass


@pytest.fixture
def executors() -> list[ScriptedExecutor]:
    return [ScriptedExecutor(number) for number in range(3)]


async def taken(slots: Slots) -> int:
    return (await slots.execute("lease", PAYLOAD)).exit_code


async def test_the_slot_that_was_freed_last_is_taken_first(executors: list[ScriptedExecutor]) -> None:
    slots = Slots(executors, SystemClock())
    assert [await taken(slots) for _ in range(4)] == [0, 0, 0, 0]


@pytest.mark.parametrize("failure", [RuntimeError("broken"), InternalError("the disk of the slot")])
async def test_a_slot_that_failed_is_taken_last(executors: list[ScriptedExecutor], failure: Exception) -> None:
    slots = Slots(executors, SystemClock())
    executors[0].failure = executors[1].failure = failure
    for _ in range(2):
        with pytest.raises(type(failure)):
            await taken(slots)
    assert [await taken(slots) for _ in range(4)] == [2, 2, 2, 2]
    executors[2].failure = failure
    executors[0].failure = None
    with pytest.raises(type(failure)):
        await taken(slots)
    assert await taken(slots) == 0


@pytest.mark.parametrize("failure", [InvalidRequest("the action's own fault"), asyncio.CancelledError()])
async def test_what_is_not_the_slots_fault_leaves_its_place(
    executors: list[ScriptedExecutor], failure: BaseException
) -> None:
    slots = Slots(executors, SystemClock())
    executors[0].failure = failure
    with pytest.raises(type(failure)):
        await taken(slots)
    executors[0].failure = None
    assert await taken(slots) == 0
    assert slots.status() == [{"slot": number, "state": "idle"} for number in range(3)]
