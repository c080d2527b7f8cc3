"""Uploads that are not sent as a whole: begun, cut off, or left standing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from gridwright.wire.early_answers import expect_early_answer
from tests.conformance.target import CALL_SECONDS, Target, chunks_of, write_requests

_SETTLE_SECONDS = 5.0
_ASK_SECONDS = 0.05


@asynccontextmanager
async def begun(
    target: Target, requests: Iterable[bs.WriteRequest], metadata: Sequence[tuple[str, str]] = ()
) -> AsyncIterator[Any]:
    """Send *requests* and no end; yield the call, which is cut off when the block ends."""
    start: grpc.aio.StreamUnaryMultiCallable[bs.WriteRequest, bs.WriteResponse] = target.channel.stream_unary(
        "/google.bytestream.ByteStream/Write", lambda one: one.SerializeToString(), bs.WriteResponse.FromString
    )
    call = expect_early_answer(start(timeout=CALL_SECONDS, metadata=tuple(metadata)))
    try:
        try:
            for request in requests:
                await call.write(request)
        except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
            pass  # answered already
        yield call
    finally:
        call.cancel()


async def cut_off(target: Target, name: str, data: bytes) -> None:
    """Send the beginning of an upload, and break it off when the server has had time to keep some of it."""
    async with begun(target, write_requests(name, chunks_of(data), finish=False)):
        await committed(target, name, at_least=1)


async def committed(target: Target, name: str, *, at_least: int = 0) -> int:
    """Return what the server says that it has of an upload, once it is so much or some seconds have passed."""
    give_up = asyncio.get_running_loop().time() + _SETTLE_SECONDS
    while True:
        answer = await target.query(name)
        assert not answer.complete
        if answer.committed_size >= at_least or asyncio.get_running_loop().time() > give_up:
            return answer.committed_size
        await asyncio.sleep(_ASK_SECONDS)  # nothing announces it


async def settled(target: Target, name: str) -> int:
    """Return what the server has of an upload that was broken off, once it says the same twice."""
    before = -1
    while before != (now := await committed(target, name)):
        before = now
        await asyncio.sleep(4 * _ASK_SECONDS)
    return now
