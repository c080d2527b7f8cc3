"""``python -m bench NAME``: runs one benchmark, or all, against a grid of its own or one that is named."""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from bench.action_cache import bench_action_cache
from bench.action_cache_hits import CACHES, bench_action_cache_hits
from bench.action_cache_purge import bench_action_cache_purge
from bench.bytestream import bench_bytestream
from bench.cas_batches import Amount, bench_cas_batches
from bench.cas_bytestream import bench_cas_bytestream
from bench.cas_fill import bench_cas_fill
from bench.cas_open import bench_cas_open
from bench.cas_process import STORES
from bench.cas_streams import Streams, bench_cas_streams
from bench.grid import own_grid
from bench.noop_actions import bench_noop_actions
from bench.scheduler import Load, bench_idle_bots, bench_scheduler, bench_told
from bench.scheduler_process import DATABASES
from bench.target import Target

#: Of a whole grid, and of a CAS by itself, which is started for each store.
GRID_BENCHMARKS = ("noop_actions", "action_cache", "bytestream")
CAS_BENCHMARKS = (
    *("cas_batch_update", "cas_batch_read", "cas_find_missing"),
    *("cas_bytestream", "cas_streams", "cas_open", "cas_fill"),
)
#: Of an action cache with a CAS behind it, likewise.
ACTION_CACHE_BENCHMARKS = ("action_cache_hits", "action_cache_purge")
#: Of a scheduler with a CAS and an action cache behind it, and bots that do nothing.
SCHEDULER_BENCHMARKS = ("scheduler", "scheduler_told", "scheduler_idle_bots")


def main() -> None:
    """Run what the command line says."""
    arguments = _parser().parse_args()
    if arguments.data:
        arguments.data = arguments.data.absolute()
        arguments.data.mkdir(parents=True, exist_ok=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "name",
        choices=[
            *(*GRID_BENCHMARKS, *CAS_BENCHMARKS, *ACTION_CACHE_BENCHMARKS, *SCHEDULER_BENCHMARKS),
            *("all", "grid", "cas"),
        ],
        nargs="?",
        default="all",
    )
    ours = parser.add_argument_group("which grid; by default one is started for the time of the benchmark")
    ours.add_argument("--endpoint", help="the gRPC target of a grid that runs")
    ours.add_argument("--instance", default="main", help="its instance name (%(default)s)")
    ours.add_argument("--direct-cas", help="the gRPC target of its CAS, past the gateway")
    ours.add_argument("--data", type=Path, help="its data directory; without --endpoint: where to make one")
    ours.add_argument("--port", type=int, default=50171, help="the port of a grid that is started (%(default)s)")
    ours.add_argument("--console-port", type=int, default=50172, help="and that of its console (%(default)s)")
    peer = parser.add_argument_group("a peer, measured by the same client in the same run; see bench/README.md")
    peer.add_argument("--peer", help="its gRPC target")
    peer.add_argument("--peer-name", default="peer", help="what the tables call it (%(default)s)")
    peer.add_argument("--peer-instance", default="main", help="its instance name (%(default)s)")
    peer.add_argument(
        "--peer-platform", action="append", default=[], metavar="NAME=VALUE", help="a platform property of its actions"
    )
    cas = parser.add_argument_group("the CAS by itself, which is started for each of its stores")
    cas.add_argument(
        "--stores",
        type=lambda names: names.split(","),
        default=["filesystem", "segments"],
        help=f"which of {', '.join(STORES)} (filesystem,segments); segments*2: cas.processes: 2, on one port",
    )
    cas.add_argument("--batches", type=int, default=100, help="batches of 1,000 blobs per run (%(default)s)")
    cas.add_argument("--rows", type=int, default=10_000_000, help="blobs of the index to open (%(default)s)")
    cas.add_argument("--capacity-mib", type=int, default=512, help="size of the store to overfill (%(default)s)")
    cas.add_argument("--clients", type=int, default=32, help="clients that stream at once (%(default)s)")
    cas.add_argument("--stream-mib", type=int, default=256, help="size of what each streams (%(default)s)")
    results = parser.add_argument_group("an action cache by itself, which is started for each of its stores")
    results.add_argument(
        "--caches",
        type=lambda names: names.split(","),
        default=list(CACHES),
        help=f"which of {', '.join(CACHES)} (all of them)",
    )
    results.add_argument("--checked-hits", type=int, default=50_000, help="hits per run (%(default)s)")
    results.add_argument("--results", type=int, default=100_000, help="results to purge among (%(default)s)")
    scheduler = parser.add_argument_group("a scheduler by itself, with bots that complete at once")
    scheduler.add_argument("--database", choices=DATABASES, default=DATABASES[0], help="its database (%(default)s)")
    scheduler.add_argument("--in-flight", type=int, default=100, help="actions at the same time (%(default)s)")
    scheduler.add_argument("--bots", type=int, default=8, help="bots (%(default)s)")
    scheduler.add_argument("--capacity", type=int, default=16, help="actions that a bot takes at once (%(default)s)")
    scheduler.add_argument(
        "--rate", type=float, default=100.0, help="scheduler_told: actions that begin in a second (%(default)s)"
    )
    scheduler.add_argument(
        "--queued",
        type=lambda counts: [int(count) for count in counts.split(",")],
        default=[100, 100_000],
        help="scheduler_told: how many others are queued (100,100000)",
    )
    scheduler.add_argument("--idle-bots", type=int, default=10_000, help="scheduler_idle_bots: bots (%(default)s)")
    scheduler.add_argument("--connections", type=int, default=100, help="and their connections (%(default)s)")
    scheduler.add_argument("--seconds", type=float, default=60.0, help="and how long they are held (%(default)s)")
    how = parser.add_argument_group("how much")
    how.add_argument("--repeat", type=int, default=3, help="runs of each, of which the median counts (%(default)s)")
    how.add_argument("--actions", type=int, help="actions per run (500; of a scheduler by itself 10,000 or 1,000)")
    how.add_argument("--hits", type=int, default=5000, help="action-cache hits per run (%(default)s)")
    how.add_argument(
        "--processes", type=int, default=1, help="client processes, where there may be several (%(default)s)"
    )
    how.add_argument("--size-mib", type=int, default=1024, help="size of the large blob (%(default)s)")
    how.add_argument("--chunk-kib", type=int, default=1024, help="size of its messages (%(default)s)")
    return parser


async def _run(arguments: argparse.Namespace) -> None:
    _tell_of_the_machine()
    of_grid, of_services = _chosen(arguments.name)
    if of_grid:
        async with _target(arguments) as target:
            targets = [target]
            if arguments.peer:
                platform = tuple(tuple(one.split("=", 1)) for one in arguments.peer_platform)
                targets.append(Target(arguments.peer_name, arguments.peer, arguments.peer_instance, platform=platform))
            for name in of_grid:
                await _bench_grid(name, targets, arguments)
    if of_services:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.data) as data:
            for name in of_services:
                await _bench_service(name, Path(data), arguments)


def _chosen(name: str) -> tuple[Sequence[str], Sequence[str]]:
    """Return the benchmarks of a grid and of services by themselves that *name* stands for."""
    of_grid = [one for one in GRID_BENCHMARKS if name in (one, "grid", "all")]
    of_cas = [one for one in CAS_BENCHMARKS if name in (one, "cas", "all")]
    of_others = [one for one in (*ACTION_CACHE_BENCHMARKS, *SCHEDULER_BENCHMARKS) if name in (one, "all")]
    return of_grid, [*of_cas, *of_others]


def _tell_of_the_machine() -> None:
    cores, (load, _, _) = os.cpu_count() or 1, os.getloadavg()
    print(f"{cores} cores, load average {load:.1f} before the first run", flush=True)
    if load > cores / 2:
        print("this machine has other work: what follows is too low", flush=True)


async def _bench_grid(name: str, targets: list[Target], arguments: argparse.Namespace) -> None:
    repeat = arguments.repeat
    match name:
        case "noop_actions":
            await bench_noop_actions(targets, count=arguments.actions or 500, in_flight=50, repeat=repeat)
        case "action_cache":
            await bench_action_cache(
                targets, count=arguments.hits, in_flight=32, processes=arguments.processes, repeat=repeat
            )
        case "bytestream":
            await bench_bytestream(
                targets, size_bytes=arguments.size_mib * 2**20, chunk_bytes=arguments.chunk_kib * 1024, repeat=repeat
            )


async def _bench_service(name: str, data: Path, arguments: argparse.Namespace) -> None:
    match name:
        case "cas_bytestream":
            await bench_cas_bytestream(
                data,
                arguments.stores,
                size_bytes=arguments.size_mib * 2**20,
                chunk_bytes=arguments.chunk_kib * 1024,
                repeat=arguments.repeat,
            )
        case "cas_streams":
            streams = Streams(
                clients=arguments.clients,
                size_bytes=arguments.stream_mib * 2**20,
                chunk_bytes=arguments.chunk_kib * 1024,
                processes=arguments.processes,
            )
            await bench_cas_streams(data, arguments.stores, streams)
        case "cas_open":
            await bench_cas_open(data, rows=arguments.rows, repeat=arguments.repeat)
        case "action_cache_hits":
            await bench_action_cache_hits(
                data, arguments.caches, calls=arguments.checked_hits, in_flight=32, repeat=arguments.repeat
            )
        case "action_cache_purge":
            await bench_action_cache_purge(data, results=arguments.results)
        case "scheduler" | "scheduler_told" | "scheduler_idle_bots":
            await _bench_scheduler(name, data, arguments)
        case "cas_fill":
            await bench_cas_fill(data, arguments.stores, capacity_bytes=arguments.capacity_mib * 2**20)
        case _:
            amount = Amount(arguments.batches, arguments.processes, arguments.repeat)
            await bench_cas_batches(name, data, arguments.stores, amount)


async def _bench_scheduler(name: str, data: Path, arguments: argparse.Namespace) -> None:
    load = Load(
        arguments.database,
        arguments.actions or (1_000 if name == "scheduler_told" else 10_000),
        arguments.in_flight,
        arguments.bots,
        arguments.capacity,
        arguments.repeat,
    )
    match name:
        case "scheduler":
            await bench_scheduler(data, load)
        case "scheduler_told":
            await bench_told(data, load, rate=arguments.rate, queued=arguments.queued)
        case _:
            await bench_idle_bots(
                data,
                load,
                bots=arguments.idle_bots,
                connections=arguments.connections,
                seconds=arguments.seconds,
            )


@asynccontextmanager
async def _target(arguments: argparse.Namespace) -> AsyncIterator[Target]:
    if arguments.endpoint:
        yield Target("gridwright", arguments.endpoint, arguments.instance, arguments.direct_cas, arguments.data)
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        data = arguments.data or Path(temporary)
        async with own_grid(data, port=arguments.port, console_port=arguments.console_port) as target:
            yield target


if __name__ == "__main__":
    main()
