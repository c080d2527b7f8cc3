"""Clients that are processes of their own and send bytes as they are, so that the server is what is measured."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier

import grpc
import uvloop

from bench.batches import Batches
from bench.load import Run

_TIMEOUT_SECONDS = 120.0
_TOGETHER_SECONDS = 300.0
_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_Call = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
#: Set in the client processes: they begin together, when the last one has made its requests.
_barrier: Barrier | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """What one client process does: *calls* calls, *in_flight* at a time, but no new one after *seconds*."""

    endpoint: str
    batches: Batches
    #: More than there are requests sends them again, from the first on.
    calls: int
    in_flight: int
    seconds: float
    #: Over how many connections they go, by turns.
    connections: int = 1


@dataclass(frozen=True, slots=True)
class _Part:
    """What one client process saw; the times are of the clock that all processes of a machine share."""

    begun: float
    ended: float
    latencies_seconds: Sequence[float]


async def run_clients(shares: Sequence[Share]) -> Run:
    """Let a process per share make its calls, all at the same time; check the answers once that is over.

    Raises:
        RuntimeError: an answer was wrong.
    """
    loop = asyncio.get_running_loop()
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(len(shares))
    with ProcessPoolExecutor(len(shares), mp_context=spawn, initializer=_join, initargs=(barrier,)) as pool:
        parts = await asyncio.gather(*(loop.run_in_executor(pool, _send, share) for share in shares))
    seconds = max(part.ended for part in parts) - min(part.begun for part in parts)
    return Run(seconds, [latency for part in parts for latency in part.latencies_seconds])


def _join(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _send(share: Share) -> _Part:
    requests = share.batches.requests()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_send_all(share, requests))


async def _send_all(share: Share, requests: Sequence[bytes]) -> _Part:
    async with AsyncExitStack() as stack:
        calls = [await _connected(share, stack) for _ in range(share.connections)]
        latencies: list[float] = []
        answers: list[bytes] = []
        numbers = iter(range(share.calls))
        assert _barrier is not None, "the pool's initializer sets it"
        _barrier.wait(_TOGETHER_SECONDS)
        begun = time.monotonic()

        async def one_after_the_other(call: _Call) -> None:
            for number in numbers:
                sent = time.monotonic()
                answer = await call(requests[number % len(requests)], timeout=_TIMEOUT_SECONDS)
                ended = time.monotonic()
                latencies.append(ended - sent)
                if number < len(requests):
                    answers.append(answer)
                if ended - begun > share.seconds:
                    return

        async with asyncio.TaskGroup() as group:
            for number in range(share.in_flight):
                group.create_task(one_after_the_other(calls[number % len(calls)]))
        part = _Part(begun, time.monotonic(), latencies)
    for answer in answers:
        share.batches.check(answer)
    return part


async def _connected(share: Share, stack: AsyncExitStack) -> _Call:
    """Return the RPC over a connection of its own, which channels to the same endpoint would share by default."""
    options = [("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES), ("grpc.use_local_subchannel_pool", 1)]
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(share.endpoint, options=options))
    await channel.channel_ready()
    # No serialisers: what is given is what is sent, and bytes come back.
    return channel.unary_unary(share.batches.path)
