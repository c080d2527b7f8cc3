"""The parent: all processes of the CAS together, and what is told of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from gridwright.telemetry.admin import admin_app, serving_http
from gridwright.wire.process import Process
from gridwright_cas.config import CasFile
from gridwright_cas.processes.keeper import Keeper
from gridwright_cas.processes.merged_metrics import PROCESS_LABEL, merged_metrics
from gridwright_cas.processes.report import Report, collected
from gridwright_cas.processes.reserved_port import reserved_port
from gridwright_cas.processes.ticket import tickets

#: How long a child may take, after its calls have ended, to close its stores.
_CLOSE_SECONDS = 3.0
#: A child answers within three seconds, or is taken not to.
_CHECK_SECONDS = 5.0
_PARENT = "parent"


@asynccontextmanager
async def open_group(settings: CasFile, process: Process) -> AsyncIterator[None]:
    """Serve the CAS from ``cas.processes`` children while the block runs.

    Raises:
        ConfigurationError: the address is in use, or a child cannot use its settings.
    """
    cas = settings.cas
    async with reserved_port(cas.listen) as listen:
        end_seconds = cas.drain_seconds + _CLOSE_SECONDS
        group = Group([Keeper(ticket, end_seconds) for ticket in tickets(settings, listen)])

        async def status() -> Mapping[str, object]:
            return {"listen": listen, "processes": await group.status()}

        async def metrics() -> bytes:
            return await group.metrics(process.registry)

        # The registry of this process is among those that are merged.
        pages = admin_app("cas", CollectorRegistry(), process.readiness, status, metrics)
        async with group.running(process.stopping), serving_http(pages, cas.admin):
            loop = asyncio.get_running_loop()
            process.readiness.watch(lambda: _result(group, loop))
            process.readiness.ready = True
            try:
                yield
            finally:
                process.readiness.ready = False


class Group:
    """All children, each with its keeper."""

    def __init__(self, keepers: Sequence[Keeper]) -> None:
        self._keepers = keepers

    @asynccontextmanager
    async def running(self, stopping: asyncio.Event) -> AsyncIterator[None]:
        """Run the children while the block runs, which begins when all of them serve.

        *stopping* cuts the beginning short. It is set here when a child cannot go on.

        Raises:
            ConfigurationError: a child cannot use its settings; raised at the end where the block runs already.
        """
        keeping = [asyncio.create_task(keeper.keep(), name=f"process {keeper.number}") for keeper in self._keepers]
        for task in keeping:
            task.add_done_callback(lambda _: stopping.set())
        try:
            await self._all_up(stopping)
            for task in keeping:
                if task.done():
                    task.result()
            yield
        finally:
            for keeper in self._keepers:
                keeper.stop()
            results = await asyncio.gather(*keeping, return_exceptions=True)
        for result in results:
            if result is not None:
                raise result

    async def trouble(self) -> str | None:
        """Return why not all children want traffic, or None."""
        troubles = []
        for keeper, report in await self._reports():
            why = "does not answer" if report is None else report.trouble
            if why is not None:
                troubles.append(f"process {keeper.number}: {why}")
        return "; ".join(troubles) or None

    async def status(self) -> Mapping[str, Any]:
        """Return what each child says of itself."""
        return {
            str(keeper.number): {
                "pid": keeper.pid,
                "ready": report is not None and report.trouble is None,
                "restarts": keeper.restarts,
                **({} if report is None else report.status),
            }
            for keeper, report in await self._reports()
        }

    async def metrics(self, own: CollectorRegistry) -> bytes:
        """Return the metrics of all children, and of this process, as Prometheus text."""
        up = GaugeMetricFamily("gridwright_cas_process_up", "Whether this process answers.", labels=[PROCESS_LABEL])
        restarts = CounterMetricFamily(
            "gridwright_cas_process_restarts", "Times that it has died and was started again.", labels=[PROCESS_LABEL]
        )
        by_process: dict[str, Sequence[Metric]] = {_PARENT: [up, restarts, *collected(own)]}
        for keeper, report in await self._reports():
            number = str(keeper.number)
            up.add_metric([number], report is not None)
            restarts.add_metric([number], keeper.restarts)
            if report is not None:
                by_process[number] = report.metrics
        return await asyncio.to_thread(merged_metrics, by_process)

    async def _reports(self) -> Sequence[tuple[Keeper, Report | None]]:
        reports = await asyncio.gather(*(keeper.report() for keeper in self._keepers))
        return list(zip(self._keepers, reports, strict=True))

    async def _all_up(self, stopping: asyncio.Event) -> None:
        async def wait() -> None:
            for keeper in self._keepers:
                await keeper.up.wait()

        up, stop = asyncio.create_task(wait()), asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait((up, stop), return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
            stop.cancel()
            await asyncio.gather(up, stop, return_exceptions=True)


def _result(group: Group, loop: asyncio.AbstractEventLoop) -> str | None:
    """Return the trouble of *group*, for checks, which are called in a thread."""
    return asyncio.run_coroutine_threadsafe(group.trouble(), loop).result(_CHECK_SECONDS)
