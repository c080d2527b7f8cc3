"""The compressors of the protocol, as any client has them."""

from __future__ import annotations

import zlib

import brotli
import zstandard

#: Those of REAPI's enum that change the bytes.
COMPRESSORS = ("ZSTD", "DEFLATE", "BROTLI")


def compress(compressor: str, data: bytes) -> bytes:
    """Return *data* compressed; *compressor* is a name of REAPI's enum."""
    match compressor:
        case "ZSTD":
            return zstandard.compress(data)
        case "DEFLATE":
            raw = zlib.compressobj(wbits=-15)
            return raw.compress(data) + raw.flush()
        case "BROTLI":
            return bytes(brotli.compress(data))
    raise ValueError(compressor)


def decompress(compressor: str, data: bytes) -> bytes:
    """Return what *data* was before it was compressed, in one or more frames."""
    match compressor:
        case "ZSTD":
            return _unframed(data)
        case "DEFLATE":
            raw = zlib.decompressobj(wbits=-15)
            return raw.decompress(data) + raw.flush()
        case "BROTLI":
            return bytes(brotli.decompress(data))
    raise ValueError(compressor)


def _unframed(data: bytes) -> bytes:
    parts = []
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        parts.append(frame.decompress(data))
        assert frame.eof, "a frame is cut off"
        data = frame.unused_data
    return b"".join(parts)
