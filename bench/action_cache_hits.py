"""Hits in one action cache by itself, each of which the CAS is asked about."""

from __future__ import annotations

import asyncio
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from bench.cas_process import INSTANCE, CasProcess, own_cas
from bench.documents import digest_of, upload
from bench.h2load import run_h2load
from bench.load import Run, closed_loop
from bench.report import print_table
from bench.service_process import ServiceProcess, cpu_seconds, own_service
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_rpc as rpc
from gridwright.wire.grpc_channel import GrpcChannel

#: The leaves that are compared, each below `completeness_checking`.
CACHES = ("lmdb", "redis")
_ENTRIES = 1_000
_OUTPUTS = 5
#: So many of the results a run asks for, others each time: h2load has to be started for each.
_ASKED_FOR = 64
_TIMEOUT_SECONDS = 60.0
_MODULE = "gridwright_actioncache"
_LEAVES = {
    "lmdb": "{lmdb: {path: results}}",
    "redis": "{redis: {url: 'unix://" + "{data}/redis.sock'}}",
}
_SETTINGS = """\
endpoints: {{cas: "{cas}"}}
actioncache:
  listen: unix:actioncache.sock
  admin: unix:admin-{module}-0.sock
  store: {{completeness_checking: {{backend: {leaf}}}}}
"""
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class _Cache:
    """An action cache that runs, and the processes behind it."""

    service: ServiceProcess
    cas: CasProcess
    #: Of Redis, where there is one.
    redis_pid: int | None
    data: Path

    @property
    def socket(self) -> Path:
        return self.data / "actioncache.sock"


@dataclass(frozen=True, slots=True)
class _Counts:
    """What the processes have done so far."""

    hits: float
    questions: float
    #: Seconds of the processor: of the action cache, the CAS and Redis.
    cpu_seconds: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class _Measured:
    run: Run
    questions_per_hit: float
    #: Of the action cache, the CAS and Redis, for each hit.
    cpu_microseconds: Sequence[float]


async def bench_action_cache_hits(
    data: Path, caches: Sequence[str], *, calls: int, in_flight: int, repeat: int
) -> None:
    """Measure each of *caches* with a CAS of its own, in directories of their own below *data*; print the medians."""
    rows = []
    for cache in caches:
        with tempfile.TemporaryDirectory(prefix=f"{cache}-", dir=data) as directory:
            async with _own_cache(Path(directory), cache) as running:
                requests = await _fill(running)
                asked_for = [random.Random(run).sample(requests, _ASKED_FOR) for run in range(repeat)]
                runs = [await _measure(running, some, calls, in_flight) for some in asked_for]
                rows.append({"store": cache, **_cells(running, runs)})
    print_table(
        f"GetActionResult, {_ENTRIES:,} results of {_OUTPUTS} outputs, each hit checked, {in_flight} in flight "
        f"from h2load (median of {repeat})",
        rows,
    )


@asynccontextmanager
async def _own_cache(data: Path, cache: str) -> AsyncIterator[_Cache]:
    async with AsyncExitStack() as stack:
        cas = await stack.enter_async_context(own_cas(data, "segments"))
        redis_pid = await stack.enter_async_context(_own_redis(data)) if cache == "redis" else None
        leaf = _LEAVES[cache].replace("{data}", str(data))
        settings = _SETTINGS.format(cas=cas.endpoint, leaf=leaf, module=_MODULE)
        service = await stack.enter_async_context(own_service(_MODULE, data, settings))
        yield _Cache(service, cas, redis_pid, data)


@asynccontextmanager
async def _own_redis(data: Path) -> AsyncIterator[int]:
    """Run a Redis that keeps nothing on the disk while the block runs; yield its pid."""
    program = shutil.which("redis-server")
    if program is None:
        sys.exit("this benchmark needs redis-server; install it with: apt-get install redis-server")
    with (data / "redis.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(program, "--port", "0", "--unixsocket", str(data / "redis.sock"), "--save", "", "--appendonly", "no"),
            stdout=log,
            stderr=log,
        )
    try:
        yield process.pid
    finally:
        process.terminate()
        await process.wait()


async def _fill(cache: _Cache) -> Sequence[bytes]:
    """Store the results and their outputs; return the requests that ask for them, once each was found to be right."""
    contents = [[f"{entry}/{output}".encode().ljust(1000) for output in range(_OUTPUTS)] for entry in range(_ENTRIES)]
    async with GrpcChannel(cache.cas.endpoint) as channel:
        await upload(channel, INSTANCE, [blob for outputs in contents for blob in outputs])
    results = [
        pb.ActionResult(
            output_files=[
                pb.OutputFile(path=f"bazel-out/k8-fastbuild/bin/package/target-{number}.o", digest=digest_of(blob))
                for number, blob in enumerate(outputs)
            ],
            execution_metadata=pb.ExecutedActionMetadata(worker="worker-1"),
        )
        for outputs in contents
    ]
    actions = [digest_of(f"action {entry}".encode()) for entry in range(_ENTRIES)]
    questions = [pb.GetActionResultRequest(instance_name=INSTANCE, action_digest=action) for action in actions]
    async with GrpcChannel(f"unix:{cache.socket}") as channel:
        client = rpc.ActionCacheClient(channel)

        async def store(entry: int) -> None:
            request = pb.UpdateActionResultRequest(
                instance_name=INSTANCE, action_digest=actions[entry], action_result=results[entry]
            )
            await client.update_action_result(request, timeout=_TIMEOUT_SECONDS)
            found = await client.get_action_result(questions[entry], timeout=_TIMEOUT_SECONDS)
            if found != results[entry]:
                raise RuntimeError(f"another result was found than was stored: {found}")

        await closed_loop(_ENTRIES, 32, store)
    return [question.SerializeToString() for question in questions]


async def _measure(cache: _Cache, requests: Sequence[bytes], calls: int, in_flight: int) -> _Measured:
    scratch = cache.data / "h2load"
    scratch.mkdir(exist_ok=True)
    before = await _counts(cache)
    path = rpc.GET_ACTION_RESULT.path
    run = await run_h2load(cache.socket, path, requests, calls=calls, in_flight=in_flight, scratch=scratch)
    after = await _counts(cache)
    made, hits = len(run.latencies_seconds), after.hits - before.hits
    if hits != made:
        raise RuntimeError(f"of {made} calls, {hits:.0f} were hits")
    return _Measured(
        run,
        (after.questions - before.questions) / hits,
        [(end - begin) / hits * 1e6 for begin, end in zip(before.cpu_seconds, after.cpu_seconds, strict=True)],
    )


async def _counts(cache: _Cache) -> _Counts:
    values = {
        (sample.name, sample.labels.get("outcome")): sample.value
        for family in text_string_to_metric_families(await cache.service.metrics())
        for sample in family.samples
    }
    return _Counts(
        values[("gridwright_actioncache_lookups_total", "hit")],
        values[("gridwright_actioncache_cas_questions_total", None)],
        (
            cache.service.cpu_seconds(),
            cache.cas.cpu_seconds(),
            0.0 if cache.redis_pid is None else cpu_seconds(cache.redis_pid),
        ),
    )


def _cells(cache: _Cache, runs: Sequence[_Measured]) -> dict[str, str]:
    of_cache, of_cas, of_redis = (statistics.median(one.cpu_microseconds[which] for one in runs) for which in range(3))
    return {
        "hits/s": f"{statistics.median(one.run.per_second for one in runs):,.0f}",
        "p50 ms": f"{statistics.median(one.run.latency_ms(50) for one in runs):.1f}",
        "p99 ms": f"{statistics.median(one.run.latency_ms(99) for one in runs):.1f}",
        "calls of the CAS per hit": f"{statistics.median(one.questions_per_hit for one in runs):.3f}",
        "µs per hit": f"{of_cache:.0f}",
        "of the CAS": f"{of_cas:.0f}",
        "of Redis": f"{of_redis:.0f}",
        "RssAnon MiB": f"{cache.service.anonymous_bytes() / _MIB:.0f}",
    }
