"""What stores of results in Redis tell about themselves."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gridwright_actioncache.results.redis_store import RedisResultStore


class RedisCollector(Collector):
    """Tells of all stores that are in Redis, by server."""

    def __init__(self) -> None:
        self.stores: list[RedisResultStore] = []

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "gridwright_actioncache_redis_up", "Whether a server of Redis answered its last call.", labels=["server"]
        )
        waiting = GaugeMetricFamily(
            "gridwright_actioncache_redis_waiting_writes",
            "Results and removals that a server has not taken yet.",
            labels=["server"],
        )
        for lane in (lane for store in self.stores for lane in store.lanes):
            up.add_metric([lane.server], not lane.circuit.is_open)
            waiting.add_metric([lane.server], lane.waiting_writes)
        yield up
        yield waiting
        for name, says, counts in (
            ("retried_writes", "Attempts at a write that failed.", "retried"),
            ("dropped_writes", "Results and removals that Redis did not take in time, and that are lost.", "dropped"),
            ("damaged_values", "Values that were not what had been put under their key, which are misses.", "damaged"),
            ("missed_in_trouble", "Lookups answered as a miss since Redis did not answer.", "missed_in_trouble"),
        ):
            total = sum(getattr(store.statistics, counts) for store in self.stores)
            yield CounterMetricFamily(f"gridwright_actioncache_redis_{name}", says, value=total)
