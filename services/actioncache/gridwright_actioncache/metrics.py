"""The metrics of the action cache, beside those that every service has."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from gridwright_actioncache.results.complete import CompletenessCheckingStore


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
