"""The metrics of the scheduler, declared in one place."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class QueueMetrics:
    """What the queue has done, and how it stands."""

    def __init__(self, registry: CollectorRegistry) -> None:
        operations = Counter(
            "gridwright_scheduler_operations",
            "Execute calls, by how they were answered: from the cache, by joining an equal action, by a new one.",
            ("how",),
            registry=registry,
        )
        self._cached = operations.labels("cached")
        self._joined = operations.labels("joined")
        self._new = operations.labels("new")
        self._completed = Counter(
            "gridwright_scheduler_actions_completed", "Actions that came to an end.", registry=registry
        )
        self._requeued = Counter(
            "gridwright_scheduler_actions_requeued", "Attempts that came to nothing.", registry=registry
        )
        self._queued_now = Gauge(
            "gridwright_scheduler_actions_queued", "Actions that wait for a worker.", registry=registry
        )
        self._workers = Gauge("gridwright_scheduler_workers", "Workers with a session.", registry=registry)
        self._leases = Gauge("gridwright_scheduler_leases", "Actions in the hands of workers.", registry=registry)

    def cached(self) -> None:
        """An Execute call was answered from the action cache."""
        self._cached.inc()

    def admitted(self, *, joined: bool) -> None:
        """An Execute call was taken in."""
        (self._joined if joined else self._new).inc()

    def completed(self) -> None:
        """An action came to its end."""
        self._completed.inc()

    def requeued(self) -> None:
        """An action goes back into the queue."""
        self._requeued.inc()

    def standing(self, *, queued: int, workers: int, leases: int) -> None:
        """How many there are of each now."""
        self._queued_now.set(queued)
        self._workers.set(workers)
        self._leases.set(leases)
