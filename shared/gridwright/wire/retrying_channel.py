"""The channel that tries again."""

from __future__ import annotations

import asyncio
import math
import random
import time
from typing import TypeVar

from google.protobuf.message import Message

from gridwright.errors import Unavailable
from gridwright.wire.forwarding_channel import ForwardingChannel
from gridwright.wire.rpc import Channel, Metadata, Method, OnTrailers

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class RetryingChannel(ForwardingChannel):
    """Tries unary calls again while the other side is unavailable, up to their timeout.

    For calls that may safely arrive twice: all those that one service of ours makes to
    another are such. Streams pass through untried; who reads one knows where to resume.

    Args:
        inner: what is tried.
        first_delay_seconds: between the first two tries; it doubles.
        max_delay_seconds: between any two.
        patience_seconds: for how long the other side may be unavailable; by default as long as the call may take.
    """

    def __init__(
        self,
        inner: Channel,
        *,
        first_delay_seconds: float = 0.05,
        max_delay_seconds: float = 1.0,
        patience_seconds: float = math.inf,
    ) -> None:
        super().__init__(inner)
        self._patience_seconds = patience_seconds
        self._first_delay_seconds = first_delay_seconds
        self._max_delay_seconds = max_delay_seconds

    async def unary_unary(
        self,
        method: Method[Request, Response],
        request: Request,
        *,
        timeout: float | None,
        metadata: Metadata = (),
        on_trailers: OnTrailers | None = None,
    ) -> Response:
        give_up = None if timeout is None else time.monotonic() + timeout
        patient_until: float | None = None
        delay = self._first_delay_seconds
        while True:
            left = None if give_up is None else max(0.001, give_up - time.monotonic())
            try:
                return await self._inner.unary_unary(
                    method, request, timeout=left, metadata=metadata, on_trailers=on_trailers
                )
            except Unavailable as error:
                wait = max(delay * random.uniform(0.5, 1.0), error.retry_after_seconds or 0.0)
                next_try = time.monotonic() + wait
                if patient_until is None:
                    patient_until = time.monotonic() + self._patience_seconds
                if next_try >= patient_until or (give_up is not None and next_try >= give_up):
                    raise
            await asyncio.sleep(wait)
            delay = min(delay * 2, self._max_delay_seconds)
