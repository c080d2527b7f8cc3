"""Raw DEFLATE (RFC 1951) on the wire."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from gridwright_cas.servicers.compression.codec import PIECE_BYTES, Decoder, Encoder, cut_off, damaged, trailing

#: Negative: without the header and checksum of zlib or gzip, which REAPI's DEFLATE does not have (checklist CMP-03).
_RAW_WINDOW = -zlib.MAX_WBITS
_FASTEST = 1


class DeflateDecoder(Decoder):
    """Decompresses a raw stream."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_RAW_WINDOW)
        self._begun = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        stream = self._stream
        self._begun = self._begun or bool(data)
        if data and stream.eof:
            raise trailing("deflate")
        try:
            more = bool(data)
            while more:
                piece = stream.decompress(data, PIECE_BYTES)
                data = stream.unconsumed_tail
                # What zlib itself still holds back when a piece is full shows only when it is asked again.
                more = not stream.eof and (bool(data) or len(piece) == PIECE_BYTES)
                if piece:
                    yield piece
        except zlib.error as error:
            raise damaged("deflate", error) from None
        if stream.unused_data:
            raise trailing("deflate")

    def finish(self) -> None:
        if self._begun and not self._stream.eof:
            raise cut_off("deflate")


class DeflateEncoder(Encoder):
    """Compresses into a raw stream."""

    def __init__(self) -> None:
        self._stream = zlib.compressobj(_FASTEST, zlib.DEFLATED, _RAW_WINDOW)

    def encode(self, data: bytes) -> bytes:
        return self._stream.compress(data)

    def finish(self) -> bytes:
        return self._stream.flush()
