"""The metrics of stores; the stores themselves know nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gridwright.errors import GridwrightError
from gridwright_cas.stores.metered import StoreRecorder

if TYPE_CHECKING:
    from gridwright_cas.stores.segments.engine import Engine

#: Ten microseconds, which memory takes, to ten seconds, by which clients have given up.
_SECONDS = (0.00001, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_WHOSE = ("store", "storage")


class StoreMetrics:
    """The metrics of all stores that are `metered`, told apart by their name and their storage domain."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._segments = _SegmentsCollector()
        registry.register(self._segments)
        self._seconds = Histogram(
            "gridwright_cas_store_duration_seconds",
            "Time that a call took; for a read, until its first bytes.",
            (*_WHOSE, "method"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._failures = Counter(
            "gridwright_cas_store_failures",
            "Calls that ended with an error.",
            (*_WHOSE, "method", "error"),
            registry=registry,
        )
        self._blobs = Counter(
            "gridwright_cas_store_blobs",
            "Blobs asked for (present, absent), read (found, missing), written (kept, refused), or evicted (removed).",
            (*_WHOSE, "outcome"),
            registry=registry,
        )
        self._bytes = Counter(
            "gridwright_cas_store_bytes",
            "Bytes of the blobs that were read and written.",
            (*_WHOSE, "direction"),
            registry=registry,
        )

    def recorder(self, store: str, storage: str) -> StoreRecorder:
        """Return what the store with the name *store* tells about the storage domain *storage*."""
        return _Recorder(self._seconds, self._failures, self._blobs, self._bytes, (store, storage))

    def watch(self, engine: Engine) -> None:
        """Tell from now on how a segment store does."""
        self._segments.engines.append(engine)


class _Recorder(StoreRecorder):
    """Adds up what one store tells; its metrics are looked up once, since a store is asked often."""

    def __init__(
        self, seconds: Histogram, failures: Counter, blobs: Counter, size: Counter, labels: tuple[str, str]
    ) -> None:
        self._labels = labels
        self._failures = failures
        self._seconds = {
            method: seconds.labels(*labels, method) for method in ("get", "put", "missing", "get_many", "put_many")
        }
        outcomes = ("present", "absent", "found", "missing", "kept", "refused", "removed")
        self._blobs = {outcome: blobs.labels(*labels, outcome) for outcome in outcomes}
        self._read, self._written = size.labels(*labels, "read"), size.labels(*labels, "written")

    def answered(self, method: str, outcome: str, seconds: float) -> None:
        self._seconds[method].observe(seconds)
        if outcome != "ok":
            self._failures.labels(*self._labels, method, outcome).inc()

    def looked_up(self, found: int, missing: int) -> None:
        self._blobs["present"].inc(found)
        self._blobs["absent"].inc(missing)

    def read(self, found: int, missing: int, size_bytes: int) -> None:
        self._blobs["found"].inc(found)
        self._blobs["missing"].inc(missing)
        self._read.inc(size_bytes)

    def written(self, kept: int, refused: int, size_bytes: int) -> None:
        self._blobs["kept"].inc(kept)
        self._blobs["refused"].inc(refused)
        self._written.inc(size_bytes)

    def removed(self, count: int) -> None:
        self._blobs["removed"].inc(count)


#: Of each counter of ``SegmentStats``, what it counts.
_SEGMENT_COUNTERS = {
    "evicted_blobs": "Blobs that were evicted.",
    "evicted_bytes": "Bytes of the blobs that were evicted.",
    "retention_violations": "Blobs that were evicted although they were used within min_retention_seconds.",
    "copied_blobs": "Blobs that were written once more, since they were used lately and their segment went.",
    "copied_bytes": "Bytes of the blobs that were written once more.",
    "refused_uploads": "Uploads that found no room in time.",
    "corrupt_blobs": "Blobs that were found rotten, by a reader or by the scrubber.",
    "scrubbed_bytes": "Bytes that the scrubber has checked.",
    "scrub_failures": "Files that the scrubber could not read to their end.",
    "scrub_rounds": "Times that the scrubber has been through everything.",
    "missed_removals": "Times that this process slept through announcements of removed blobs.",
    "housekeeping_failures": "Times that eviction, scrubbing or clearing up failed.",
}


class _SegmentsCollector(Collector):
    """Tells how the segment stores of this process do, each by the label `directory`."""

    def __init__(self) -> None:
        self.engines: list[Engine] = []

    def collect(self) -> Iterator[Metric]:
        if not self.engines:
            return
        for name, what in _SEGMENT_COUNTERS.items():
            counter = CounterMetricFamily(f"gridwright_cas_segments_{name}", what, labels=["directory"])
            for engine in self.engines:
                counter.add_metric([str(engine.path)], getattr(engine.stats, name))
            yield counter
        retention = _gauge("retention_seconds", "How long ago the youngest of the evicted blobs had been used.")
        used = _gauge("used_bytes", "What the directory takes, as du says it.")
        most = _gauge("max_bytes", "What the directory may take.")
        for engine in self.engines:
            directory = [str(engine.path)]
            most.add_metric(directory, engine.settings.policy.max_bytes)
            if engine.stats.youngest_evicted_seconds is not None:
                retention.add_metric(directory, engine.stats.youngest_evicted_seconds)
            try:
                used.add_metric(directory, engine.room.used_bytes)
            except GridwrightError:
                continue  # a disk that fails shows elsewhere, and the other metrics are wanted all the more
        yield from (retention, used, most)


def _gauge(name: str, what: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"gridwright_cas_segments_{name}", what, labels=["directory"])
