"""Actions that do nothing, so that all they cost is the grid's: uploaded, executed, and never seen before."""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from bench.documents import digest_of, encode, upload
from bench.load import Run, closed_loop
from bench.memory import watching
from bench.report import print_memory, print_table
from bench.target import Target
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ExecutionClient

_TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class _Measured:
    upload_seconds: float
    executions: Run

    @property
    def seconds(self) -> float:
        return self.upload_seconds + self.executions.seconds


async def bench_noop_actions(targets: Sequence[Target], *, count: int, in_flight: int, repeat: int) -> None:
    """Measure *targets* one after the other, and print the median run of each."""
    rows = []
    first_rate = 0.0
    peaks: dict[str, int] = {}
    for target in targets:
        async with watching(target.data) as seen:
            runs = [await _measure(target, count, in_flight) for _ in range(repeat)]
        peaks |= seen
        seconds = statistics.median(run.seconds for run in runs)
        rate = count / seconds
        first_rate = first_rate or rate
        rows.append(
            {
                "grid": target.name,
                "seconds": f"{seconds:.2f}",
                "of it upload": f"{statistics.median(run.upload_seconds for run in runs):.2f}",
                "actions/s": f"{rate:.0f}",
                "p50 ms": f"{statistics.median(run.executions.latency_ms(50) for run in runs):.0f}",
                "p95 ms": f"{statistics.median(run.executions.latency_ms(95) for run in runs):.0f}",
                "ratio": f"{first_rate / rate:.2f}",
            }
        )
    print_table(f"{count} no-op actions, none seen before, {in_flight} in flight (median of {repeat})", rows)
    print_memory(peaks)


async def _measure(target: Target, count: int, in_flight: int) -> _Measured:
    commands, actions, root = _documents(target, count)
    async with target.connect() as channel:
        begun = time.perf_counter()
        await upload(channel, target.instance, [root, *commands, *actions])
        upload_seconds = time.perf_counter() - begun
        execution = ExecutionClient(channel)

        async def execute(number: int) -> None:
            request = pb.ExecuteRequest(instance_name=target.instance, action_digest=digest_of(actions[number]))
            answer = pb.ExecuteResponse()
            async for operation in execution.execute(request, timeout=_TIMEOUT_SECONDS):
                if operation.done:
                    operation.response.Unpack(answer)
            if answer.status.code or answer.result.exit_code or answer.cached_result:
                raise RuntimeError(f"{target.name} did not execute action {number} well: {answer}")
            if not answer.HasField("result"):
                raise RuntimeError(f"{target.name} ended the stream of action {number} without a result")

        return _Measured(upload_seconds, await closed_loop(count, in_flight, execute))


def _documents(target: Target, count: int) -> tuple[list[bytes], list[bytes], bytes]:
    """Return *count* commands and actions that differ in one environment variable, and their empty input root."""
    run = uuid.uuid4().hex
    root = encode(pb.Directory())
    platform = pb.Platform(
        properties=[pb.Platform.Property(name=name, value=value) for name, value in sorted(target.platform)]
    )
    commands = [
        encode(
            pb.Command(
                arguments=["/bin/true"],
                environment_variables=[pb.Command.EnvironmentVariable(name="BENCH", value=f"{run}-{number}")],
                platform=platform,
            )
        )
        for number in range(count)
    ]
    actions = [
        encode(pb.Action(command_digest=digest_of(command), input_root_digest=digest_of(root), platform=platform))
        for command in commands
    ]
    return commands, actions, root
