"""The slots of a worker: each executes one action at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gridwright.clock import Clock
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_worker.execution.executor import Executor
from gridwright_worker.payload import Payload


@dataclass(slots=True)
class _Slot:
    number: int
    executor: Executor
    #: What it is at and since when, for people to read.
    lease: str = ""
    since: float = 0.0


class Slots:
    """Gives each action a free slot; more actions than slots wait for their turn."""

    def __init__(self, executors: Sequence[Executor], clock: Clock) -> None:
        self._slots = [_Slot(number, executor) for number, executor in enumerate(executors)]
        self._clock = clock
        #: The slot that was freed last is taken first, its files and pages being warm.
        self._free: asyncio.LifoQueue[_Slot] = asyncio.LifoQueue()
        for slot in reversed(self._slots):
            self._free.put_nowait(slot)

    def __len__(self) -> int:
        return len(self._slots)

    async def execute(self, lease: str, payload: Payload) -> pb.ActionResult:
        """Execute the action in the first slot that is free; raises what the executor raises."""
        slot = await self._free.get()
        slot.lease, slot.since = lease, self._clock.now()
        try:
            return await slot.executor.execute(payload.action, payload.function)
        finally:
            slot.lease = ""
            self._free.put_nowait(slot)

    def status(self) -> list[Mapping[str, object]]:
        """Return what each slot is at."""
        now = self._clock.now()
        return [
            {"slot": slot.number, "state": "running", "lease": slot.lease, "seconds": round(now - slot.since, 3)}
            if slot.lease
            else {"slot": slot.number, "state": "idle"}
            for slot in self._slots
        ]
