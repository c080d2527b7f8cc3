"""What several processes of the CAS may share, and what each of them is told."""

from __future__ import annotations

import os
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from gridwright.errors import ConfigurationError
from gridwright.settings import Address, validate_settings
from gridwright_cas.config import CasFile
from gridwright_cas.processes.merged_metrics import merged_metrics
from gridwright_cas.processes.report import Report, collected
from gridwright_cas.processes.ticket import Ticket, tickets

SEGMENTS = {"segments": {"content_path": "cas"}}
GRPC = {"grpc": {"endpoints": [{"address": "grpc://127.0.0.1:1"}]}}
MEMORY: dict[str, Any] = {"memory": {}}


def read(store: dict[str, Any], *, listen: str = "127.0.0.1:0", **cas: Any) -> CasFile:
    named = [{"name": "A", **MEMORY}, {"name": "B", "segments": {"content_path": "named"}}]
    data = {"stores": named, "cas": {"listen": listen, "processes": 2, "store": store, **cas}}
    return validate_settings(CasFile, data, source="the test")


@pytest.mark.parametrize(
    "store",
    [
        SEGMENTS,
        {"ref_store": {"name": "B"}},
        {"verify": {"backend": {"compression": {"backend": SEGMENTS}}}},
        {"metered": {"name": "m", "backend": {"read_only": {"backend": SEGMENTS}}}},
        {"size_partitioning": {"size": "1kb", "lower_store": {"noop": {}}, "upper_store": SEGMENTS}},
        {"fast_slow": {"fast": SEGMENTS, "slow": GRPC}},
        {"existence_cache": {"eviction_policy": {"max_seconds": 600}, "backend": GRPC}},
    ],
    ids=str,
)
def test_what_processes_can_share_is_accepted(store: dict[str, Any]) -> None:
    assert read(store).cas.processes == 2


@pytest.mark.parametrize(
    ("store", "message"),
    [
        (MEMORY, "cas.store.memory: each process would have a memory of its own.*write segments, or cas.processes: 1"),
        (
            {"verify": {"backend": {"filesystem": {"content_path": "cas"}}}},
            "cas.store.verify.backend.filesystem: one process at a time can use the directory; write segments",
        ),
        ({"fast_slow": {"fast": {"ref_store": {"name": "A"}}, "slow": SEGMENTS}}, "stores.A.memory: each process"),
        (
            {"existence_cache": {"backend": SEGMENTS}},
            "cas.store.existence_cache.eviction_policy.max_seconds: required with cas.processes above 1",
        ),
    ],
    ids=str,
)
def test_what_processes_cannot_share_is_named_with_what_to_write_instead(store: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read(store)
    assert read(store, processes=1).cas.processes == 1


def test_processes_cannot_share_a_unix_socket() -> None:
    with pytest.raises(ConfigurationError, match=r"cas\.listen: a Unix socket has one listener; write HOST:PORT"):
        read(SEGMENTS, listen="unix:cas.sock")


@pytest.mark.parametrize("count", [0, 33])
def test_the_number_of_processes_has_bounds(count: int) -> None:
    with pytest.raises(ConfigurationError, match=r"cas\.processes: "):
        read(SEGMENTS, processes=count)


def test_each_process_is_told_its_share() -> None:
    settings = read(SEGMENTS, processes=4, uploads={"memory": 64_000_000}, reads={"memory": 400_000_000})
    told = tickets(settings, Address("127.0.0.1:12345"))
    assert [one.number for one in told] == [1, 2, 3, 4]
    for one in told:
        assert (one.settings.cas.processes, one.settings.cas.listen) == (1, "127.0.0.1:12345")
        assert one.settings.cas.uploads.memory == 16_000_000
        assert one.settings.cas.reads.memory == 100_000_000
        assert one.settings.cas.store == settings.cas.store


def test_a_ticket_arrives_as_it_was_given() -> None:
    [ticket, _] = tickets(read({"ref_store": {"name": "B"}}), Address("127.0.0.1:12345"))
    descriptor = ticket.descriptor()
    try:
        assert Ticket.read(descriptor) == ticket
    finally:
        os.close(descriptor)


def test_metrics_of_processes_become_one_page_with_each_family_once() -> None:
    reports = {}
    for number, count in (("1", 2), ("2", 3)):
        registry = CollectorRegistry()
        Counter("answers", "Answers.", ["code"], registry=registry).labels('a "quoted" one').inc(count)
        Gauge("hot", "How hot.", ["process"], registry=registry).labels("its own").set(count)
        line = Report(None, {}, collected(registry)).encoded()
        assert line.endswith(b"\n")
        reports[number] = Report.decoded(line).metrics
    lines = merged_metrics(reports).decode().splitlines()
    assert lines[:4] == [
        "# HELP answers_total Answers.",
        "# TYPE answers_total counter",
        'answers_total{code="a \\"quoted\\" one",process="1"} 2.0',
        'answers_total{code="a \\"quoted\\" one",process="2"} 3.0',
    ]
    assert lines.count("# TYPE answers_created gauge") == 1
    assert lines[-2:] == ['hot{process="its own"} 2.0', 'hot{process="its own"} 3.0']
