"""Many clients in C: h2load, of Debian's package nghttp2-client."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from pathlib import Path

from bench.load import Run

_HTTP_OK = "200"
#: Of one process, each with one call at a time: a process for each call costs the processor more than the calls do.
_CONNECTIONS = 4
#: One call of h2load takes far less.
_MAX_SECONDS = 120.0


async def run_h2load(
    socket: Path, path: str, requests: Sequence[bytes], *, calls: int, in_flight: int, scratch: Path
) -> Run:
    """Make *calls* calls, shared out evenly among *requests*, over *in_flight* connections with one call each.

    h2load sends one message again and again, so some run at a time, each with a message of
    its own and four connections; one that is done makes room for the next message. What
    starting them costs is in the result, some milliseconds for each message. That a call was
    well-formed HTTP is all that h2load looks at: a gRPC error has to be found by the caller.

    Args:
        socket: the Unix socket of the server.
        path: of the RPC.
        in_flight: a multiple of four.
        scratch: a directory for what h2load reads and writes.

    Raises:
        SystemExit: there is no h2load here.
        RuntimeError: a call failed.
    """
    program = shutil.which("h2load")
    if program is None:
        sys.exit("this benchmark needs h2load; install it with: apt-get install nghttp2-client")
    per_request = max(_CONNECTIONS, calls // len(requests))
    for number, request in enumerate(requests):
        # How gRPC frames a message: not compressed, and its length.
        _message(scratch, number).write_bytes(b"\0" + len(request).to_bytes(4) + request)
        _log(scratch, number).unlink(missing_ok=True)
    numbers = iter(range(len(requests)))

    async def one_after_the_other() -> None:
        for number in numbers:
            process = await asyncio.create_subprocess_exec(
                *(program, f"-c{_CONNECTIONS}", "-m1", f"-n{per_request}", f"-d{_message(scratch, number)}"),
                *("-H", "content-type: application/grpc", "-H", "te: trailers"),
                *(f"--log-file={_log(scratch, number)}", f"--base-uri=unix:{socket}", f"http://localhost{path}"),
                stdout=PIPE,
                stderr=PIPE,
            )
            output, errors = await process.communicate()
            if process.returncode:
                raise RuntimeError(f"h2load failed: {(errors or output).decode(errors='replace')}")

    begun = time.perf_counter()
    async with asyncio.timeout(_MAX_SECONDS), asyncio.TaskGroup() as group:
        for _ in range(in_flight // _CONNECTIONS):
            group.create_task(one_after_the_other())
    seconds = time.perf_counter() - begun
    return Run(seconds, [one for number in range(len(requests)) for one in _latencies(scratch, number, per_request)])


def _latencies(scratch: Path, number: int, calls: int) -> Sequence[float]:
    rows = [line.split("\t") for line in _log(scratch, number).read_text().splitlines()]
    if len(rows) != calls or any(row[1] != _HTTP_OK for row in rows):
        raise RuntimeError(f"h2load made {len(rows)} of {calls} calls, and not all of them were answered")
    return [int(row[2]) / 1e6 for row in rows]


def _message(scratch: Path, number: int) -> Path:
    return scratch / f"request{number}"


def _log(scratch: Path, number: int) -> Path:
    return scratch / f"log{number}"
