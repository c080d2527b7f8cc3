"""The metrics of several processes as those of one service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

#: Tells the samples of the processes apart; counters of all of them can be summed up over it.
PROCESS_LABEL = "process"


def merged_metrics(by_process: Mapping[str, Sequence[Metric]]) -> bytes:
    """Return Prometheus text with the samples of each process under its name; a label that is there stays.

    Each family comes once, as the format asks, with the samples of all processes.
    """
    families: dict[str, Metric] = {}
    for process, metrics in by_process.items():
        for one in metrics:
            family = families.setdefault(one.name, Metric(one.name, one.documentation, one.type))
            for sample in one.samples:
                family.samples.append(sample._replace(labels={PROCESS_LABEL: process, **sample.labels}))
    registry = CollectorRegistry()
    registry.register(_Families(families.values()))
    return generate_latest(registry)


class _Families(Collector):
    """Metrics that were collected already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families
