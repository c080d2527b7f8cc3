"""The slots of a worker: each executes one action at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gridwright.clock import Clock
from gridwright.errors import GridwrightError, InternalError
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
        #: The slot that was freed last is taken first, its files and pages being warm; one that failed is taken
        #: last, for it ends actions sooner than others do, and would get them all.
        self._free: asyncio.PriorityQueue[tuple[int, _Slot]] = asyncio.PriorityQueue()
        for slot in self._slots:
            self._free.put_nowait((slot.number, slot))
        #: Larger than every place in the queue so far.
        self._place = len(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    async def execute(self, lease: str, payload: Payload) -> pb.ActionResult:
        """Execute the action in the first slot that is free; raises what the executor raises."""
        _, slot = await self._free.get()
        slot.lease, slot.since = lease, self._clock.now()
        is_sound = False
        try:
            result = await slot.executor.execute(payload.action, payload.function)
            is_sound = True
            return result
        except (GridwrightError, asyncio.CancelledError) as error:
            is_sound = not isinstance(error, InternalError)
            raise
        finally:
            slot.lease = ""
            self._place += 1
            self._free.put_nowait((-self._place if is_sound else self._place, slot))

    def status(self) -> list[Mapping[str, object]]:
        """Return what each slot is at."""
        now = self._clock.now()
        return [
            {"slot": slot.number, "state": "running", "lease": slot.lease, "seconds": round(now - slot.since, 3)}
            if slot.lease
            else {"slot": slot.number, "state": "idle"}
            for slot in self._slots
        ]
