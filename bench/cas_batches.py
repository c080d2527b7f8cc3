"""The bulk RPCs of one CAS: batches of small blobs in and out, and questions which are missing."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.batches import BLOB_BYTES, BLOBS_PER_BATCH, Batches, Questions, Reads, Updates
from bench.cas_process import INSTANCE, CasProcess, own_cas
from bench.client_processes import Share, run_clients
from bench.load import Run
from bench.report import print_table

#: A run ends after this, whatever is left of its batches.
_MAX_SECONDS = 20.0
#: So many batches are there, per client, before blobs are read or asked for, again and again.
_WARM_BATCHES = 40
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is sent, and by how many."""

    batches: int
    processes: int
    repeat: int


@dataclass(frozen=True, slots=True)
class _Kind:
    title: str
    in_flight: int
    #: Made for the number of a run, and of a client in it.
    batches: Callable[[int, int, int], Batches]
    #: What the table counts, and how many of them are in a call.
    unit: str
    units_per_call: int
    #: Calls for each batch of the amount: some are cheap.
    calls_per_batch: int = 1
    #: Whether the blobs have to be there.
    warm: bool = True


def _new(run: int, client: int, batches: int) -> Batches:
    return Updates(INSTANCE, seed=1000 * (run + 1) + client, batches=batches)


def _reads(run: int, client: int, batches: int) -> Batches:
    return Reads(INSTANCE, seed=client, batches=_WARM_BATCHES)


def _questions(run: int, client: int, batches: int) -> Batches:
    return Questions(INSTANCE, seed=client, batches=_WARM_BATCHES)


_KINDS = {
    "cas_batch_update": _Kind(
        f"BatchUpdateBlobs of {BLOBS_PER_BATCH} new blobs of {BLOB_BYTES} bytes, acknowledged when they are durable",
        in_flight=4,
        batches=_new,
        unit="blobs",
        units_per_call=BLOBS_PER_BATCH,
        warm=False,
    ),
    "cas_batch_read": _Kind(
        f"BatchReadBlobs of {BLOBS_PER_BATCH} blobs of {BLOB_BYTES} bytes, warm",
        in_flight=4,
        batches=_reads,
        unit="blobs",
        units_per_call=BLOBS_PER_BATCH,
    ),
    "cas_find_missing": _Kind(
        f"FindMissingBlobs of {BLOBS_PER_BATCH} digests, half present",
        in_flight=8,
        batches=_questions,
        unit="calls",
        units_per_call=1,
        calls_per_batch=20,
    ),
}


@dataclass(frozen=True, slots=True)
class _Measured:
    run: Run
    #: Of the server, in all its threads, for each blob of a batch.
    cpu_microseconds: float


async def bench_cas_batches(name: str, data: Path, stores: Sequence[str], amount: Amount) -> None:
    """Measure one RPC with each of *stores*, in directories of their own below *data*; print the medians."""
    kind = _KINDS[name]
    rows = []
    for store in stores:
        with tempfile.TemporaryDirectory(prefix=f"{store}-", dir=data) as directory:
            async with own_cas(Path(directory), store) as cas:
                clients = _clients(cas, amount)
                if kind.warm:
                    await _fill(cas, clients)
                runs = [await _measure(cas, kind, clients, amount.batches, run) for run in range(amount.repeat)]
                connections = clients * _connections(cas, kind, clients)
                told = {"store": store, "clients": str(clients), "connections": str(connections)}
                rows.append({**told, **_cells(cas, kind, runs)})
    print_table(f"{kind.title}; {kind.in_flight} in flight (median of {amount.repeat})", rows)


def _clients(cas: CasProcess, amount: Amount) -> int:
    """Return how many client processes there are: enough to keep as many of the server busy."""
    return max(amount.processes, len(cas.children))


def _connections(cas: CasProcess, kind: _Kind, clients: int) -> int:
    """Return how many connections each client has.

    The kernel gives each connection to one of the processes that listen, by chance, so there are as many as calls in
    flight; by fewer, one process may have all of them.
    """
    return max(1, kind.in_flight // clients) if cas.children else 1


async def _fill(cas: CasProcess, clients: int) -> None:
    written = [Updates(INSTANCE, seed=client, batches=_WARM_BATCHES) for client in range(clients)]
    await run_clients([Share(cas.endpoint, batches, _WARM_BATCHES, 4, float("inf")) for batches in written])


async def _measure(cas: CasProcess, kind: _Kind, clients: int, batches: int, run: int) -> _Measured:
    shares = [
        Share(
            cas.endpoint,
            kind.batches(run, client, batches // clients),
            calls=batches // clients * kind.calls_per_batch,
            in_flight=max(1, kind.in_flight // clients),
            seconds=_MAX_SECONDS,
            connections=_connections(cas, kind, clients),
        )
        for client in range(clients)
    ]
    before = cas.cpu_seconds()
    measured = await run_clients(shares)
    cpu_seconds = cas.cpu_seconds() - before
    return _Measured(measured, cpu_seconds / (len(measured.latencies_seconds) * BLOBS_PER_BATCH) * 1e6)


def _cells(cas: CasProcess, kind: _Kind, runs: Sequence[_Measured]) -> dict[str, str]:
    rate = statistics.median(one.run.per_second for one in runs) * kind.units_per_call
    return {
        f"{kind.unit}/s": f"{rate:,.0f}",
        "p50 ms": f"{statistics.median(one.run.latency_ms(50) for one in runs):.1f}",
        "p99 ms": f"{statistics.median(one.run.latency_ms(99) for one in runs):.1f}",
        "server's µs per digest": f"{statistics.median(one.cpu_microseconds for one in runs):.2f}",
        "RssAnon MiB": f"{cas.anonymous_bytes() / _MIB:.0f}",
    }
