"""The metrics of the scheduler, declared in one place; docs/scheduler.md says what to make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gridwright_scheduler.queue.names import PlatformId
from gridwright_scheduler.queue.platform import Requirements
from gridwright_scheduler.queue.property_rules import Wanted
from gridwright_scheduler.session import Session

#: A millisecond, which is a turn with a worker at hand, to a day, which is a queue that nobody serves.
_WAIT_BUCKETS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    300,
    1_800,
    7_200,
    86_400,
)
_RUN_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 1_800, 3_600, 14_400)
_DATABASE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 10)
_ATTEMPTS_BUCKETS = (1, 2, 3, 4, 5, 10, 20)
#: Clients name platforms as they like, and each is a time series: the longest queues are told apart, no more.
_MAX_PLATFORMS = 100
_MAX_LABEL_LENGTH = 200
_OTHERS = "others"


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
        self._attempts = Histogram(
            "gridwright_scheduler_attempts",
            "How many workers an action that came to an end was given to.",
            buckets=_ATTEMPTS_BUCKETS,
            registry=registry,
        )
        self._wait_seconds = Histogram(
            "gridwright_scheduler_wait_seconds",
            "Time from an action's Execute call until it is a worker's for the first time.",
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
        self._assignment_seconds = Histogram(
            "gridwright_scheduler_assignment_seconds",
            "Of that, the time when its worker waited as well.",
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
        self._run_seconds = Histogram(
            "gridwright_scheduler_run_seconds",
            "Time from giving an action to a worker until it reported the end.",
            buckets=_RUN_BUCKETS,
            registry=registry,
        )
        self._queued = Gauge(
            "gridwright_scheduler_actions_queued",
            "Actions that wait for a worker, by what they need; told by the one scheduler that counts them.",
            ("instance", "platform"),
            registry=registry,
        )
        #: The series that there are.
        self._platforms: set[tuple[str, str]] = set()

    def cached(self) -> None:
        """An Execute call was answered from the action cache."""
        self._cached.inc()

    def admitted(self, *, joined: bool) -> None:
        """An Execute call was taken in."""
        (self._joined if joined else self._new).inc()

    def assigned(self, *, first: bool, waited_seconds: float, worker_waited_seconds: float) -> None:
        """An action was given to a worker that had waited for *worker_waited_seconds*."""
        if first:
            self._wait_seconds.observe(max(0.0, waited_seconds))
            self._assignment_seconds.observe(max(0.0, min(waited_seconds, worker_waited_seconds)))

    def reported(self, *, run_seconds: float) -> None:
        """A worker has said what became of an action."""
        self._run_seconds.observe(max(0.0, run_seconds))

    def completed(self, *, attempts: int) -> None:
        """An action came to its end; it was given to a worker *attempts* times."""
        self._completed.inc()
        self._attempts.observe(attempts)

    def requeued(self) -> None:
        """An action goes back into the queue."""
        self._requeued.inc()

    def counted(self, queued: Mapping[PlatformId, tuple[Requirements, int]]) -> None:
        """What the queue holds, as this scheduler has counted it for all.

        A platform whose queue is empty again stays, with zero: autoscalers take no figure for no news.
        """
        longest = sorted(queued.values(), key=lambda one: -one[1])
        depths: dict[tuple[str, str], int] = {}
        for requirements, count in longest:
            labels = (requirements.instance, _platform_label(requirements))
            if labels not in depths and len(depths) >= _MAX_PLATFORMS:
                labels = (requirements.instance, _OTHERS)
            depths[labels] = depths.get(labels, 0) + count
        for labels in self._platforms - depths.keys():
            if len(depths) < _MAX_PLATFORMS:
                depths[labels] = 0
            else:
                self._queued.remove(*labels)
        for labels, count in depths.items():
            self._queued.labels(*labels).set(count)
        self._platforms = set(depths)

    def not_counted(self) -> None:
        """Another scheduler counts the queue now: two that do would make it twice as long."""
        self._queued.clear()
        self._platforms.clear()


class WorkerMetrics(Collector):
    """The workers that talk to this scheduler, counted when somebody asks."""

    def __init__(self, registry: CollectorRegistry, sessions: Iterable[Session]) -> None:
        self._sessions = sessions
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        states = dict.fromkeys(("idle", "busy", "full", "unhealthy"), 0)
        leases = 0
        for session in self._sessions:
            states[_state_of(session)] += 1
            leases += len(session.leases)
        workers = GaugeMetricFamily(
            "gridwright_scheduler_workers",
            "Workers that talk to this scheduler: idle, busy (there is room for more), full, unhealthy (they take no "
            "work).",
            labels=("state",),
        )
        for state, count in states.items():
            workers.add_metric((state,), count)
        yield workers
        yield GaugeMetricFamily("gridwright_scheduler_leases", "Actions in the hands of these workers.", value=leases)


class DatabaseMetrics:
    """How long the database takes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        seconds = Histogram(
            "gridwright_scheduler_database_seconds",
            "Time of a transaction, the wait for a connection included: write (all that is to be written at the time "
            "goes into one), read.",
            ("kind",),
            buckets=_DATABASE_BUCKETS,
            registry=registry,
        )
        #: Take the seconds of one transaction.
        self.written: Callable[[float], None] = seconds.labels("write").observe
        self.read: Callable[[float], None] = seconds.labels("read").observe
        self._failed = Counter(
            "gridwright_scheduler_database_failures", "Transactions that came to nothing.", registry=registry
        )

    def failed(self) -> None:
        """A transaction came to nothing."""
        self._failed.inc()


def _state_of(session: Session) -> str:
    if not session.healthy:
        return "unhealthy"
    if not session.leases:
        return "idle"
    return "busy" if session.free_slots > 0 else "full"


def _words(name: str, value: Wanted) -> str:
    if value is None:
        return name
    return f"{name}={value}" if isinstance(value, str) else f"{name}>={value}"


def _platform_label(requirements: Requirements) -> str:
    """Return the properties as ``name=value,name=value``; they are sorted already, so each set has one label."""
    text = ",".join(_words(name, value) for name, value in requirements.properties)
    if requirements.ours_only:
        text = f"{text},workers=gridwright" if text else "workers=gridwright"
    return text if len(text) <= _MAX_LABEL_LENGTH else f"{text[: _MAX_LABEL_LENGTH - 1]}…"
