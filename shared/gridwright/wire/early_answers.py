"""What grpc.aio must be told so that a server may answer before it has heard the whole request."""

from __future__ import annotations

import asyncio
from typing import Any

from grpc._cython import cygrpc  # type: ignore[attr-defined]  # it has no stubs

#: The status follows a failed write at once; a broken connection is noticed by then, too.
_STATUS_SECONDS = 30.0


def expect_early_answer(call: Any) -> Any:
    """Return *call*, of the client of a streaming request, so that it keeps an early answer.

    A server that answers before the client's last message (a CAS that has the blob already,
    an upload that is refused) makes the next write fail. Of that grpc.aio makes a status
    INTERNAL, which hides the server's own status, or even its response, when both come
    in the same moment (grpc/grpc#36066). Here such a write waits for the server's status
    and ends; the caller's next one finds the call done.
    """
    call._cython_call = _PatientCall(call._cython_call)
    return call


class _PatientCall:
    """grpc.aio's inner call, but for its two ways of sending."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def send_serialized_message(self, message: bytes) -> None:
        try:
            await self._inner.send_serialized_message(message)
        except cygrpc.InternalError:
            await self._hear_status()

    async def send_receive_close(self) -> None:
        try:
            await self._inner.send_receive_close()
        except cygrpc.InternalError:
            await self._hear_status()

    async def _hear_status(self) -> None:
        try:
            await asyncio.wait_for(self._inner.status(), _STATUS_SECONDS)
        except TimeoutError:
            self._inner.set_internal_error("a write failed, and no status followed")
