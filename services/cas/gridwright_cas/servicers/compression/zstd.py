"""Zstandard on the wire."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

from gridwright_cas.servicers.compression.codec import PIECE_BYTES, Decoder, Encoder, cut_off, damaged
from gridwright_cas.stores.codecs import ZstdCodec

#: A decoder keeps a window of what it decoded last; `zstd --long` and `--ultra` want more than these 8 MiB.
_MAX_WINDOW_LOG = 23
_OPTIONS: Mapping[int, int] = {DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
#: A frame takes some 20 µs before its first byte, so a stream may not be made of tiny ones only.
_MAX_TINY_FRAMES = 1_000
_TINY_FRAME_BYTES = 1_024
#: Behind the end of a frame the rest of what came with it is copied: of so little, cheaply, however many frames it is.
_SLICE_BYTES = 16 * 1024


class ZstdDecoder(Decoder):
    """Decompresses any number of frames, one behind the other (checklist CMP-02).

    It uses ``backports.zstd``, Python's own module of later versions, since its decompressor
    can be told how much may come out of a call. That of ``zstandard``, which the stores use
    as it is faster with single small frames, cannot.
    """

    def __init__(self) -> None:
        self._frame: ZstdDecompressor | None = None
        self._frames = 0
        self._decoded_bytes = 0

    def decode(self, data: bytes) -> Iterator[bytes]:
        if len(data) <= _SLICE_BYTES:
            yield from self._decode(data)
        elif data:
            # Most streams are one frame: only where it ends early does the rest go on in slices.
            rest = data
            yield from self._of_frame(rest)
            frame = self._frame
            if frame is not None and frame.eof and (rest := frame.unused_data):
                for start in range(0, len(rest), _SLICE_BYTES):
                    yield from self._decode(rest[start : start + _SLICE_BYTES])

    def finish(self) -> None:
        if self._frame is not None and not self._frame.eof:
            raise cut_off("zstd")

    def _decode(self, data: bytes) -> Iterator[bytes]:
        while data:
            yield from self._of_frame(data)
            frame = self._frame
            data = frame.unused_data if frame is not None and frame.eof else b""

    def _of_frame(self, data: bytes) -> Iterator[bytes]:
        """Yield what *data* adds to one frame; if that ends, ``unused_data`` is what is left."""
        frame = self._frame
        if frame is None or frame.eof:
            frame = self._frame = self._next_frame()
        try:
            while True:
                piece = frame.decompress(data, PIECE_BYTES)
                self._decoded_bytes += len(piece)
                if piece:
                    yield piece
                if frame.eof or frame.needs_input:
                    return
                data = b""
        except ZstdError as error:
            raise damaged("zstd", error) from None

    def _next_frame(self) -> ZstdDecompressor:
        self._frames += 1
        if self._frames > _MAX_TINY_FRAMES + self._decoded_bytes // _TINY_FRAME_BYTES:
            raise damaged("zstd", f"its {self._frames} frames hold fewer than {_TINY_FRAME_BYTES} bytes each")
        return ZstdDecompressor(options=_OPTIONS)


class ZstdEncoder(Encoder):
    """Compresses each piece into a frame of its own, so that frames from elsewhere may be sent between them."""

    def encode(self, data: bytes) -> bytes:
        return CODEC.compress(data) if data else b""

    def finish(self) -> bytes:
        return b""


#: Makes frames with their size and a checksum; from any thread.
CODEC = ZstdCodec(level=1)
