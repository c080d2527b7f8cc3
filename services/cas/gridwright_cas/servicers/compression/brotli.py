"""Brotli (RFC 7932) on the wire."""

from __future__ import annotations

from collections.abc import Iterator

import brotli

from gridwright_cas.servicers.compression.codec import PIECE_BYTES, Decoder, Encoder, cut_off, damaged, trailing

_FAST_QUALITY = 1
#: The library may exceed its limit by as much again.
_LIMIT_BYTES = PIECE_BYTES // 2
#: A window of 1 MiB: a larger one finds little more at this quality.
_WINDOW_LOG = 20


class BrotliDecoder(Decoder):
    """Decompresses a stream; its window has 16 MiB at most, as the format knows no larger one."""

    def __init__(self) -> None:
        self._stream = brotli.Decompressor()
        self._begun = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        stream = self._stream
        self._begun = self._begun or bool(data)
        if data and stream.is_finished():
            raise trailing("brotli")
        try:
            while True:
                piece: bytes = stream.process(data, output_buffer_limit=_LIMIT_BYTES)
                if piece:
                    yield piece
                if stream.is_finished() or (not piece and stream.can_accept_more_data()):
                    return
                # It may hold more back when a piece is full, also when it could accept more data.
                data = b""
        except brotli.error as error:
            raise damaged("brotli", error) from None

    def finish(self) -> None:
        if self._begun and not self._stream.is_finished():
            raise cut_off("brotli")


class BrotliEncoder(Encoder):
    """Compresses into a stream."""

    def __init__(self) -> None:
        self._stream = brotli.Compressor(quality=_FAST_QUALITY, lgwin=_WINDOW_LOG)

    def encode(self, data: bytes) -> bytes:
        part: bytes = self._stream.process(data)
        return part

    def finish(self) -> bytes:
        rest: bytes = self._stream.finish()
        return rest
