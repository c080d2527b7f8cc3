"""A TCP proxy that cuts connections as a network does that loses its state: by a reset, anywhere in a message."""

from __future__ import annotations

import asyncio
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

_READ_BYTES = 10_007  # which no frame is a multiple of
_RESET = struct.pack("ii", 1, 0)  # linger, for no time


@asynccontextmanager
async def cutting(address: str, cuts: Sequence[int]) -> AsyncIterator[str]:
    """Pass connections on to *address* while the block runs; yield the address for them.

    The first is reset, on both sides, when it has sent as many bytes as *cuts* begins with, and so on; those that
    come after them stay.
    """
    left = list(cuts)
    writers: list[StreamWriter] = []

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        host, _, port = address.rpartition(":")
        there, onwards = await asyncio.open_connection(host, int(port))
        writers.extend((writer, onwards))
        back = asyncio.create_task(_pass_on(there, writer, None))
        await _pass_on(reader, onwards, left.pop(0) if left else None)
        _reset(writer)
        _reset(onwards)
        await back

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            _reset(writer)
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


async def _pass_on(reader: StreamReader, writer: StreamWriter, limit: int | None) -> None:
    try:
        while limit != 0 and (data := await reader.read(min(_READ_BYTES, limit or _READ_BYTES))):
            writer.write(data)
            await writer.drain()
            if limit is not None:
                limit -= len(data)
    except ConnectionError:
        return


def _reset(writer: StreamWriter) -> None:
    opened = writer.get_extra_info("socket")
    if not writer.transport.is_closing():
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
