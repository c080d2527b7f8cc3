"""The messages of one upload become its bytes here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from gridwright.errors import DeadlineExceeded, InvalidRequest
from gridwright.protos.google.bytestream import bytestream_pb2 as pb

#: After so long without a message what came is not held in memory any more.
_PAUSE_SECONDS = 1.0
#: How long an upload may stand still; what came of one that broke off is kept as long.
_IDLE_SECONDS = 3_600.0
#: How long a client that has sent everything may take to say that this was all.
_END_SECONDS = 1.0


class LeftUnfinished(Exception):
    """The client ended its upload without finish_write, to go on later: no error (checklist BSW-08)."""


class UploadMessages:
    """Checks the messages of one upload as they come (checklist BSW-01 to BSW-07).

    Args:
        first: the first message, which has come already.
        requests: the others.
    """

    def __init__(self, first: pb.WriteRequest, requests: AsyncIterator[pb.WriteRequest]) -> None:
        self._name = first.resource_name
        self._first: pb.WriteRequest | None = first
        self._requests = requests
        self._reading: asyncio.Future[pb.WriteRequest | None] | None = None
        self._woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        #: Where the next message must go on: the first offset and what came since, as it came.
        self.offset = first.write_offset

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield what comes; an empty chunk, once, when nothing does (see ``ResumableUploads.put``).

        Whether it is too much, too little or wrong is for others to find.

        Raises:
            InvalidRequest: the messages make no upload.
            LeftUnfinished: they end without ``finish_write``.
            DeadlineExceeded: the client stands still.
        """
        message, self._first = self._first, None
        try:
            while message is not None:
                self._check(message)
                finished = message.finish_write
                if data := message.data:
                    self.offset += len(data)
                    # A message of some MiB is not kept while its bytes travel on.
                    message = None
                    yield data
                    del data
                if finished:
                    await self._expect_end()
                    return
                if (message := await self._next(_PAUSE_SECONDS)) is None and not self._has_ended:
                    yield b""
                    message = await self._next(_IDLE_SECONDS)
                    if message is None and not self._has_ended:
                        raise DeadlineExceeded(
                            f"no message of this upload came for {_IDLE_SECONDS:.0f} s; "
                            "ask QueryWriteStatus where to go on"
                        )
            raise LeftUnfinished
        finally:
            if self._reading is not None:
                self._reading.cancel()

    def _check(self, message: pb.WriteRequest) -> None:
        if message.resource_name and message.resource_name != self._name:
            raise InvalidRequest("resource_name changed during the upload", field="resource_name")
        if message.write_offset != self.offset:
            raise InvalidRequest(
                f"write_offset is {message.write_offset}, but this upload is at {self.offset}", field="write_offset"
            )

    @property
    def _has_ended(self) -> bool:
        """Whether the client has sent its last message: there is nothing more to wait for."""
        return self._reading is None

    async def _next(self, seconds: float) -> pb.WriteRequest | None:
        """Return the next message, or None: there is none, or none came for so long, and it is waited for still.

        What ``asyncio.wait`` does, at half its price: it is done for each message.
        """
        if self._reading is None:
            self._reading = asyncio.ensure_future(anext(self._requests, None))
            self._reading.add_done_callback(self._wake)
        if not self._reading.done():
            await self._wait(seconds)
        if not self._reading.done():
            return None
        message, self._reading = self._reading.result(), None
        return message

    async def _wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._woken = loop.create_future()
        timer = loop.call_later(seconds, self._wake)
        try:
            await self._woken
        finally:
            timer.cancel()

    def _wake(self, _: object = None) -> None:
        if not self._woken.done():
            self._woken.set_result(None)

    async def _expect_end(self) -> None:
        if await self._next(_END_SECONDS) is not None:
            raise InvalidRequest("a message came after finish_write", field="finish_write")
        # Or it waits for our answer before it ends its own side.
