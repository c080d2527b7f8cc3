"""Follows one execution to its end, also when the connection breaks on the way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import TypeVar

from google.longrunning import operations_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message

from gridwright.errors import (
    Aborted,
    Cancelled,
    GridwrightError,
    InternalError,
    NotFound,
    OperationNotFound,
    Unavailable,
)
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.build.bazel.remote.execution.v2.remote_execution_rpc import ExecutionClient
from gridwright.wire.rpc import Channel, Metadata

#: A restart of a service takes less; a server that is away for longer before anything has begun may be gone for good.
START_PATIENCE_SECONDS = 10.0
#: What else a broken stream looks like, reset by someone in between. It may also be a fault of the
#: server's, which stays when tried again.
_RESET = (InternalError, Cancelled, Aborted)
_MAX_RESETS = 3
_FIRST_DELAY_SECONDS = 0.1
_MAX_DELAY_SECONDS = 2.0
#: A stream that held so long was well.
_STEADY_SECONDS = 5.0

M = TypeVar("M", bound=Message)
#: Hears each state of the operation, with its name.
OnState = Callable[[str, pb.ExecuteOperationMetadata], None]


class Follower:
    """Starts executions and sees each to its end, as Bazel does.

    A stream that breaks is taken up again with WaitExecution, and with Execute where the
    server does not know the operation (any more), so a restart of any service shows as a
    delay. It gives up when there was no news for *patience_seconds*, and no stream that held;
    sooner while nothing has begun yet that could be lost.

    Args:
        channel: how the server is reached; not a retrying one, as this retries.
        patience_seconds: how long the server may be away once the operation has begun.
        start_patience_seconds: how long it may be so before.
        metadata: headers for every call, RequestMetadata say.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        patience_seconds: float = 60.0,
        start_patience_seconds: float = START_PATIENCE_SECONDS,
        metadata: Metadata = (),
    ) -> None:
        self._client = ExecutionClient(channel)
        self._start_patience_seconds = start_patience_seconds
        self._patience_seconds = patience_seconds
        self._metadata = metadata

    async def execute(self, request: pb.ExecuteRequest, on_state: OnState) -> pb.ExecuteResponse:
        """Return the response of the execution that *request* asks for.

        Raises:
            GridwrightError: the server refuses it, or is away for too long.
        """
        patience = _Patience(self._start_patience_seconds, self._patience_seconds)
        name = ""
        while True:
            patience.begin()
            heard: operations_pb2.Operation | None = None
            broken: GridwrightError = Unavailable("the server ended the stream before the operation")
            try:
                async with aclosing(self._open(request, name)) as operations:  # type: ignore[type-var]
                    async for heard in operations:
                        metadata = _unpacked(heard.metadata, pb.ExecuteOperationMetadata())
                        name = heard.name
                        patience.hear((name, metadata.stage))
                        on_state(name, metadata)
                        if heard.done:
                            break
            except NotFound:
                if not name:
                    raise
                broken, name = OperationNotFound(name), ""
            except (Unavailable, *_RESET) as error:
                broken = error
            if heard is not None and heard.done:
                return _response_of(heard)
            await patience.wait_or_raise(broken)

    def _open(self, request: pb.ExecuteRequest, name: str) -> AsyncIterator[operations_pb2.Operation]:
        # No deadline: how long a command runs is up to its own timeout, and to Ctrl-C.
        if name:
            wait = pb.WaitExecutionRequest(name=name)
            return self._client.wait_execution(wait, timeout=None, metadata=self._metadata)
        return self._client.execute(request, timeout=None, metadata=self._metadata)


class _Patience:
    """How often, and how soon, a broken stream is taken up again.

    News, or a stream that held for a while, renew it; a stream that breaks at once each time does not.
    """

    def __init__(self, start_seconds: float, seconds: float) -> None:
        self._start_seconds = start_seconds
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._opened = self._loop.time()
        self._last: tuple[str, int] | None = None
        self._delay = _FIRST_DELAY_SECONDS
        self._resets = 0
        self._give_up = self._opened + start_seconds

    def begin(self) -> None:
        """A stream is opened."""
        self._opened = self._loop.time()

    def hear(self, state: tuple[str, int]) -> None:
        """The operation is in *state*."""
        if state != self._last:
            self._last = state
            self._renew()

    async def wait_or_raise(self, broken: GridwrightError) -> None:
        """Return when it is time for the next try; raise *broken* when there is none."""
        now = self._loop.time()
        if now - self._opened >= _STEADY_SECONDS:
            self._renew()
        self._resets += isinstance(broken, _RESET)
        wait = self._delay * random.uniform(0.5, 1.0)
        if now + wait >= self._give_up or self._resets > _MAX_RESETS:
            raise broken
        self._delay = min(self._delay * 2, _MAX_DELAY_SECONDS)
        await asyncio.sleep(wait)

    def _renew(self) -> None:
        seconds = self._start_seconds if self._last is None else self._seconds
        self._give_up = self._loop.time() + seconds
        self._delay = _FIRST_DELAY_SECONDS
        self._resets = 0


def _response_of(operation: operations_pb2.Operation) -> pb.ExecuteResponse:
    if operation.WhichOneof("result") != "response":
        raise InternalError(f"operation {operation.name} ended without a response: {operation.error.message}")
    return _unpacked(operation.response, pb.ExecuteResponse())


def _unpacked(box: AnyMessage, message: M) -> M:
    try:
        box.Unpack(message)
    except DecodeError:
        raise InternalError("the server sent an operation that cannot be read") from None
    return message
