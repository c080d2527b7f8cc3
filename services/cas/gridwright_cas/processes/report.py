"""What a child tells its parent of itself: each question is a newline, each answer a line of JSON."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from gridwright.telemetry.admin import StatusReport
from gridwright.wire.process import Process

#: A child that says more than this at a time is not heard; a hundred metrics take some 20 kB.
MAX_REPORT_BYTES = 16 * 1024 * 1024
QUESTION = b"\n"


class Report(NamedTuple):
    """How a child is."""

    #: Why it wants no traffic, or None.
    trouble: str | None
    #: What it says on /status.
    status: Mapping[str, Any]
    metrics: Sequence[Metric]

    def encoded(self) -> bytes:
        """Return this report as a line."""
        families = [
            (family.name, family.documentation, family.type, [sample[:3] for sample in family.samples])
            for family in self.metrics
        ]
        return json.dumps((self.trouble, self.status, families)).encode() + b"\n"

    @classmethod
    def decoded(cls, line: bytes) -> Report:
        """Return the report that *line* is."""
        trouble, status, families = json.loads(line)
        return cls(trouble, status, [_family(*family) for family in families])


@asynccontextmanager
async def answering(connection: socket.socket, process: Process, status: StatusReport) -> AsyncIterator[None]:
    """Answer the parent's questions while the block runs, which is when this process is ready until it drains."""
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    answers = asyncio.create_task(_answer(reader, writer, process, status), name="reports")
    process.readiness.ready = True
    try:
        yield
    finally:
        process.readiness.ready = False
        answers.cancel()
        with suppress(asyncio.CancelledError, ConnectionError):
            await answers
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, process: Process, status: StatusReport
) -> None:
    while await reader.read(1024):
        trouble = await asyncio.to_thread(process.readiness.trouble)
        writer.write(Report(trouble, await status(), collected(process.registry)).encoded())
        await writer.drain()


def collected(registry: CollectorRegistry) -> Sequence[Metric]:
    """Return the metrics of a process."""
    return list(registry.collect())


def _family(name: str, documentation: str, kind: str, samples: Iterable[tuple[str, dict[str, str], float]]) -> Metric:
    family = Metric(name, documentation, kind)
    for sample_name, labels, value in samples:
        family.add_sample(sample_name, labels, value)
    return family
