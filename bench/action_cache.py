"""Hits in the action cache, of results whose outputs the grid has to make sure of."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import uuid
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import uvloop

from bench.documents import digest_of, upload
from bench.load import Run, closed_loop
from bench.memory import watching
from bench.report import print_memory, print_table
from bench.target import Target
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ActionCacheClient

_RESULTS = 500
_OUTPUTS = 3
_TIMEOUT_SECONDS = 60.0


async def bench_action_cache(
    targets: Sequence[Target], *, count: int, in_flight: int, processes: int, repeat: int
) -> None:
    """Fill each of *targets*, ask it *count* times from *processes* client processes, and print the median."""
    rows = []
    peaks: dict[str, int] = {}
    for target in targets:
        async with watching(target.data) as seen:
            actions = await _fill(target)
            runs = [await _measure(target, actions, count, in_flight, processes) for _ in range(repeat)]
        peaks |= seen
        rows.append(
            {
                "grid": target.name,
                "hits/s": f"{statistics.median(run.per_second for run in runs):.0f}",
                "p50 ms": f"{statistics.median(run.latency_ms(50) for run in runs):.1f}",
                "p99 ms": f"{statistics.median(run.latency_ms(99) for run in runs):.1f}",
            }
        )
    clients = f"{processes} client process{'es' if processes > 1 else ''}"
    print_table(
        f"GetActionResult, hits with {_OUTPUTS} outputs, {in_flight} in flight from {clients} (median of {repeat})",
        rows,
    )
    print_memory(peaks)


async def _fill(target: Target) -> list[pb.Digest]:
    """Store results with outputs, and return the digests of their actions."""
    run = uuid.uuid4().hex
    names = [[f"{run}/{number}/{output}" for output in range(_OUTPUTS)] for number in range(_RESULTS)]
    actions = [digest_of(f"{run}/{number}".encode()) for number in range(_RESULTS)]
    async with target.connect() as channel:
        await upload(channel, target.instance, [name.encode() for outputs in names for name in outputs])
        cache = ActionCacheClient(channel)

        async def store(number: int) -> None:
            files = [pb.OutputFile(path=name, digest=digest_of(name.encode())) for name in names[number]]
            request = pb.UpdateActionResultRequest(
                instance_name=target.instance,
                action_digest=actions[number],
                action_result=pb.ActionResult(output_files=files),
            )
            await cache.update_action_result(request, timeout=_TIMEOUT_SECONDS)

        await closed_loop(_RESULTS, 32, store)
    return actions


async def _measure(target: Target, actions: list[pb.Digest], count: int, in_flight: int, processes: int) -> Run:
    """Ask from other processes, so that what this one does costs nothing."""
    loop = asyncio.get_running_loop()
    hashes = [(digest.hash, digest.size_bytes) for digest in actions]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        share = (target, hashes, count // processes, in_flight // processes)
        runs = await asyncio.gather(*(loop.run_in_executor(pool, _ask, *share) for _ in range(processes)))
    return Run(max(run.seconds for run in runs), [latency for run in runs for latency in run.latencies_seconds])


def _ask(target: Target, hashes: list[tuple[str, int]], count: int, in_flight: int) -> Run:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_ask_all(target, hashes, count, in_flight))


async def _ask_all(target: Target, hashes: list[tuple[str, int]], count: int, in_flight: int) -> Run:
    async with target.connect() as channel:
        cache = ActionCacheClient(channel)

        async def ask(number: int) -> None:
            hash_, size_bytes = hashes[number % len(hashes)]
            request = pb.GetActionResultRequest(
                instance_name=target.instance, action_digest=pb.Digest(hash=hash_, size_bytes=size_bytes)
            )
            result = await cache.get_action_result(request, timeout=_TIMEOUT_SECONDS)
            if len(result.output_files) != _OUTPUTS:
                raise RuntimeError(f"{target.name} gave another result than was stored: {result}")

        await closed_loop(in_flight, in_flight, ask)  # connects
        return await closed_loop(count, in_flight, ask)
