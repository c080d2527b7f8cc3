"""The metrics of the action cache, beside those that every service has."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from gridwright.errors import GridwrightError
from gridwright_actioncache.results.complete import CompletenessCheckingStore
from gridwright_actioncache.results.metered import ResultRecorder

#: A hundred microseconds, which memory takes, to ten seconds, by which clients have given up.
_STORE_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class CompletenessCollector(Collector):
    """Tells what the completeness checks came to."""

    def __init__(self, store: CompletenessCheckingStore) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        statistics = self._store.statistics
        checks = CounterMetricFamily(
            "gridwright_actioncache_completeness_checks",
            "Results checked before they were returned.",
            labels=["outcome"],
        )
        checks.add_metric(["complete"], statistics.complete)
        checks.add_metric(["incomplete"], statistics.incomplete)
        checks.add_metric(["malformed"], statistics.malformed)
        yield checks
        yield CounterMetricFamily(
            "gridwright_actioncache_cas_questions",
            "Calls of FindMissingBlobs that the checks took; fewer than checks where they came together.",
            value=self._store.questions,
        )


class ResultStoreMetrics:
    """The metrics of all stores that are `metered`, told apart by the label `store`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        #: Where other metrics of stores go.
        self.registry = registry
        self._lookups = Counter(
            "gridwright_actioncache_store_lookups",
            "Results asked for, by whether they were found.",
            ("store", "outcome"),
            registry=registry,
        )
        self._bytes = Counter(
            "gridwright_actioncache_store_bytes",
            "Bytes of the results that were read and written.",
            ("store", "direction"),
            registry=registry,
        )
        self._failures = Counter(
            "gridwright_actioncache_store_failures",
            "Calls that ended with an error.",
            ("store", "operation", "error"),
            registry=registry,
        )
        self._seconds = Histogram(
            "gridwright_actioncache_store_duration_seconds",
            "Time that a call took.",
            ("store", "operation"),
            buckets=_STORE_SECONDS,
            registry=registry,
        )

    def recorder(self, store: str) -> ResultRecorder:
        """Return what the store with the name *store* tells."""
        return _Recorder(store, self._lookups, self._bytes, self._failures, self._seconds)


class _Recorder(ResultRecorder):
    def __init__(self, store: str, lookups: Counter, size: Counter, failures: Counter, seconds: Histogram) -> None:
        self._store = store
        self._hits, self._misses = lookups.labels(store, "hit"), lookups.labels(store, "miss")
        self._read, self._written = size.labels(store, "read"), size.labels(store, "written")
        self._failures = failures
        self._seconds = seconds

    def looked_up(self, hits: int, misses: int, hit_bytes: int) -> None:
        self._hits.inc(hits)
        self._misses.inc(misses)
        self._read.inc(hit_bytes)

    def kept(self, size_bytes: int) -> None:
        self._written.inc(size_bytes)

    def failed(self, operation: str, error: GridwrightError) -> None:
        self._failures.labels(self._store, operation, type(error).__name__).inc()

    def took(self, operation: str, seconds: float) -> None:
        self._seconds.labels(self._store, operation).observe(seconds)
