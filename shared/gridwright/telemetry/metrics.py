"""The metrics that every service has, declared in one place."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

#: Half a millisecond to ten minutes: a cache hit, an upload, a long poll.
_LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 600)


def new_registry() -> CollectorRegistry:
    """Return a registry with the metrics of the process itself."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class RpcMetrics:
    """Rate, errors and latency of the RPCs that this process answers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "gridwright_rpc_server_calls",
            "Calls answered, by method and gRPC status code.",
            ("service", "method", "code"),
            registry=registry,
        )
        self._seconds = Histogram(
            "gridwright_rpc_server_duration_seconds",
            "Time to answer a call, from its headers to its status.",
            ("service", "method"),
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )

    def observer(self, path: str) -> Callable[[str, float], None]:
        """Return a function that counts one call of the method at *path*: (code name, seconds)."""
        _, service, method = path.split("/")
        seconds = self._seconds.labels(service, method)
        by_code: dict[str, Counter] = {}

        def observe(code: str, duration_seconds: float) -> None:
            counter = by_code.get(code)
            if counter is None:
                counter = by_code[code] = self._calls.labels(service, method, code)
            counter.inc()
            seconds.observe(duration_seconds)

        return observe
