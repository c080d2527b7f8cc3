"""A service of nothing, run as a process of its own by the tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gridwright.settings import Address, GridSettings, ServerSettings
from gridwright.wire.process import Process, run
from gridwright.wire.server import serving
from tests.shared.probe import Probe, ProbeByteStream, options


class ProbeSettings(ServerSettings):
    """The section of the probe."""

    listen: Address = Address.parse("127.0.0.1:0")
    """Where gRPC is served."""

    admin: Address = Address.parse("127.0.0.1:0")
    """Where the admin pages are."""


class ProbeFile(GridSettings):
    """The settings file."""

    cas: ProbeSettings = ProbeSettings()
    """Named as a service that there is."""


@asynccontextmanager
async def open_app(settings: ProbeFile, process: Process) -> AsyncIterator[None]:
    async with (
        serving([ProbeByteStream(Probe())], options(settings.cas.listen)),
        process.admin("probe", settings.cas.admin),
    ):
        yield


if __name__ == "__main__":
    run("probe", ProbeFile, open_app)
