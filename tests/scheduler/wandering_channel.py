"""The channel through which each call comes to another scheduler, as a proxy sends them that balances calls."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

from gridwright.wire.forwarding_channel import ForwardingChannel
from gridwright.wire.rpc import Channel


class WanderingChannel(ForwardingChannel):
    """Hands each call to the next of *channels*."""

    def __init__(self, channels: Sequence[Channel]) -> None:
        super().__init__(channels[0])
        self._channels = cycle(channels)

    def _to(self) -> Channel:
        return next(self._channels)
