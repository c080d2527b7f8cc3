"""The metrics of the action cache, beside those that every service has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gridwright.errors import GridwrightError
from gridwright_actioncache.lookups import Lookups
from gridwright_actioncache.results.complete import CompletenessCheckingStore
from gridwright_actioncache.results.dependency import DependencyHealth
from gridwright_actioncache.results.expiring import ExpiringResultStore
from gridwright_actioncache.results.metered import ResultRecorder

#: A hundred microseconds, which memory takes, to ten seconds, by which clients have given up.
_STORE_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class LookupCollector(Collector):
    """Tells what becomes of questions, why results were not found, and whether what they depend on answers."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups
        self.checking: list[CompletenessCheckingStore] = []
        self.expiring: list[ExpiringResultStore] = []
        self.dependencies: list[DependencyHealth] = []
        self._absent = 0

    def collect(self) -> Iterator[Metric]:
        yield self._questions()
        yield self._misses()
        yield from self._checks()
        yield from self._health()

    def _questions(self) -> Metric:
        lookups = self._lookups
        metric = CounterMetricFamily(
            "gridwright_actioncache_lookups",
            "Results that clients asked for, by what became of it.",
            labels=["instance", "outcome"],
        )
        for outcome, counts in (("hit", lookups.hits), ("miss", lookups.misses), ("failed", lookups.failures)):
            for instance, count in counts.items():
                metric.add_metric([instance, outcome], count)
        return metric

    def _misses(self) -> Metric:
        reasons = {
            "incomplete": sum(store.statistics.incomplete for store in self.checking),
            "malformed": sum(store.statistics.malformed for store in self.checking),
            "expired": sum(store.expired for store in self.expiring),
            "too_large": self._lookups.too_large,
        }
        # A store counts before the client has its answer, and a counter must not go back.
        self._absent = max(self._absent, self._lookups.misses.total() - sum(reasons.values()))
        metric = CounterMetricFamily(
            "gridwright_actioncache_misses", "Results that were not found, by why.", labels=["reason"]
        )
        for reason, count in {"absent": self._absent, **reasons}.items():
            metric.add_metric([reason], count)
        return metric

    def _checks(self) -> Iterator[Metric]:
        checks = CounterMetricFamily(
            "gridwright_actioncache_completeness_checks",
            "Results checked before they were returned.",
            labels=["outcome"],
        )
        for outcome in ("complete", "incomplete", "malformed"):
            checks.add_metric([outcome], sum(getattr(store.statistics, outcome) for store in self.checking))
        yield checks
        yield CounterMetricFamily(
            "gridwright_actioncache_cas_questions",
            "Calls of FindMissingBlobs that the checks took; fewer than checks where they came together.",
            value=sum(store.questions for store in self.checking),
        )

    def _health(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "gridwright_actioncache_dependency_up",
            "Whether a service that this one depends on answered its last call.",
            labels=["dependency"],
        )
        failures = CounterMetricFamily(
            "gridwright_actioncache_dependency_failures", "Calls that it did not answer.", labels=["dependency"]
        )
        for dependency in self.dependencies:
            up.add_metric([dependency.name], dependency.is_up)
            failures.add_metric([dependency.name], dependency.failures)
        yield up
        yield failures


class ResultStoreMetrics:
    """The metrics of all stores: those that are `metered` are told apart by the label `store`."""

    def __init__(self, registry: CollectorRegistry, lookups: Lookups) -> None:
        #: Where other metrics of stores go.
        self.registry = registry
        self._collector = LookupCollector(lookups)
        registry.register(self._collector)
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

    def check(self, store: CompletenessCheckingStore) -> None:
        """Tell what the checks of *store* come to."""
        self._collector.checking.append(store)

    def expire(self, store: ExpiringResultStore) -> None:
        """Tell how many results of *store* were too old."""
        self._collector.expiring.append(store)

    def watch(self, dependency: DependencyHealth) -> None:
        """Tell whether *dependency* answers, here and on /status."""
        self._collector.dependencies.append(dependency)

    def dependencies(self) -> Mapping[str, object]:
        """Return what /status says of each dependency, by its name."""
        return {dependency.name: dependency.report() for dependency in self._collector.dependencies}

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
