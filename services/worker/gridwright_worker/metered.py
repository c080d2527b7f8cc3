"""The worker's metrics."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gridwright.digest import DigestFunction
from gridwright.errors import GridwrightError
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_worker.execution.executor import Executor
from gridwright_worker.execution.inputs.cache import InputCache

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)


class WorkerMetrics:
    """What a worker counts; declared once per process."""

    def __init__(self, registry: CollectorRegistry, cache: InputCache) -> None:
        self.actions = Counter(
            "gridwright_worker_actions", "Actions, by how they ended.", ("outcome",), registry=registry
        )
        self.seconds = Histogram(
            "gridwright_worker_action_duration_seconds",
            "From the lease to the last upload.",
            buckets=_BUCKETS,
            registry=registry,
        )
        self.running = Gauge("gridwright_worker_running_actions", "Actions that run now.", registry=registry)
        used = Gauge("gridwright_worker_cache_used_bytes", "Bytes in the input cache.", registry=registry)
        used.set_function(lambda: cache.statistics().used_bytes)
        files = Gauge("gridwright_worker_cache_files", "Files in the input cache.", registry=registry)
        files.set_function(lambda: cache.statistics().files)


class MeteredExecutor(Executor):
    """Counts actions and takes their time."""

    def __init__(self, inner: Executor, metrics: WorkerMetrics) -> None:
        self._inner = inner
        self._metrics = metrics

    def __repr__(self) -> str:
        return f"<MeteredExecutor {self._inner}>"

    async def execute(self, action: pb.Action, function: DigestFunction) -> pb.ActionResult:
        started = time.perf_counter()
        outcome = "Abandoned"
        try:
            with self._metrics.running.track_inprogress():
                result = await self._inner.execute(action, function)
            outcome = "Succeeded" if result.exit_code == 0 else "Failed"
            return result
        except GridwrightError as error:
            outcome = type(error).__name__
            raise
        finally:
            self._metrics.actions.labels(outcome).inc()
            self._metrics.seconds.observe(time.perf_counter() - started)

    async def close(self) -> None:
        await self._inner.close()
