"""What a benchmark is run against."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gridwright.wire.grpc_channel import GrpcChannel


@dataclass(frozen=True, slots=True)
class Target:
    """A grid, ours or a peer's."""

    name: str
    #: A gRPC target that serves everything.
    endpoint: str
    instance: str
    #: A gRPC target of the CAS alone, past any gateway, where it is known.
    direct_cas: str | None = None
    #: Where a grid of ours keeps its state, which tells its processes; None: not on this machine, or not ours.
    data: Path | None = None
    #: The platform properties that its workers need to see on an action.
    platform: tuple[tuple[str, str], ...] = field(default=())

    def connect(self) -> GrpcChannel:
        """Return a channel to it, and not one that an earlier run has warmed."""
        return GrpcChannel(self.endpoint, options=[("grpc.use_local_subchannel_pool", 1)])
