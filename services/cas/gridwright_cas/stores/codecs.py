"""How one block of a blob is compressed: each into a frame of its own, in a format that others read as well."""

from __future__ import annotations

import threading
from abc import abstractmethod
from typing import ClassVar, Protocol

import lz4.frame
import zstandard


class FrameCorrupted(Exception):
    """The bytes are not the frame that they should be."""


class Codec(Protocol):
    """Compresses blocks into frames with a checksum; its methods may be called from any thread."""

    #: How much of a blob becomes one frame.
    block_bytes: int

    @abstractmethod
    def compress(self, block: bytes | memoryview) -> bytes:
        """Return the frame of *block*; what cannot be compressed costs a few bytes more than it has."""
        ...


class ZstdCodec(Codec):
    """Zstandard: compresses well, and is what clients speak."""

    MAGIC: ClassVar[bytes] = b"\x28\xb5\x2f\xfd"

    def __init__(self, *, level: int = 1, block_bytes: int = 1024 * 1024) -> None:
        self.block_bytes = block_bytes
        self._level = level
        self._of_thread = threading.local()

    def __repr__(self) -> str:
        return f"zstd level {self._level} in blocks of {self.block_bytes} bytes"

    def compress(self, block: bytes | memoryview) -> bytes:
        compressor: zstandard.ZstdCompressor | None = getattr(self._of_thread, "compressor", None)
        if compressor is None:
            # One for each thread: it holds the tables of the frame that it is at.
            compressor = zstandard.ZstdCompressor(level=self._level, write_checksum=True, write_content_size=True)
            self._of_thread.compressor = compressor
        return compressor.compress(block)


class Lz4Codec(Codec):
    """LZ4: fast, and compresses a little."""

    MAGIC: ClassVar[bytes] = b"\x04\x22\x4d\x18"

    def __init__(self, *, block_bytes: int = 64 * 1024) -> None:
        self.block_bytes = block_bytes
        # The format knows four sizes of what it calls blocks; ours is one of them, or fits into one.
        self._block_size = next(
            (id_ for id_, size in _LZ4_BLOCKS.items() if size >= block_bytes), lz4.frame.BLOCKSIZE_MAX4MB
        )

    def __repr__(self) -> str:
        return f"lz4 in blocks of {self.block_bytes} bytes"

    def compress(self, block: bytes | memoryview) -> bytes:
        frame: bytes = lz4.frame.compress(block, block_size=self._block_size, content_checksum=True, store_size=True)
        return frame


def decompress(frame: bytes | memoryview, size_bytes: int) -> bytes:
    """Return the *size_bytes* that were compressed into *frame*, by whichever codec.

    Raises:
        FrameCorrupted: it is damaged, or is the frame of more or fewer bytes. That is seen
            before there is memory for more than these.
    """
    match bytes(frame[:4]):
        case ZstdCodec.MAGIC:
            block = _decompress_zstd(frame, size_bytes)
        case Lz4Codec.MAGIC:
            block = _decompress_lz4(frame, size_bytes)
        case magic:
            raise FrameCorrupted(f"no frame begins with {magic.hex()}")
    if len(block) != size_bytes:
        raise FrameCorrupted(f"the frame holds {len(block)} bytes, not {size_bytes}")
    return block


def is_zstd_frame(frame: bytes | memoryview, size_bytes: int) -> bool:
    """Whether a Zstandard frame begins here that says of itself that it holds *size_bytes*."""
    if bytes(frame[:4]) != ZstdCodec.MAGIC:
        return False
    try:
        return zstandard.frame_content_size(frame) == size_bytes
    except zstandard.ZstdError:
        return False


_LZ4_BLOCKS = {
    lz4.frame.BLOCKSIZE_MAX64KB: 64 * 1024,
    lz4.frame.BLOCKSIZE_MAX256KB: 256 * 1024,
    lz4.frame.BLOCKSIZE_MAX1MB: 1024 * 1024,
    lz4.frame.BLOCKSIZE_MAX4MB: 4 * 1024 * 1024,
}
_decompressors = threading.local()


def _decompress_zstd(frame: bytes | memoryview, size_bytes: int) -> bytes:
    decompressor: zstandard.ZstdDecompressor | None = getattr(_decompressors, "zstd", None)
    if decompressor is None:
        decompressor = _decompressors.zstd = zstandard.ZstdDecompressor()
    try:
        if zstandard.frame_content_size(frame) != size_bytes:
            raise FrameCorrupted(f"the frame does not say that it holds {size_bytes} bytes")
        return decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FrameCorrupted(str(error)) from None


def _decompress_lz4(frame: bytes | memoryview, size_bytes: int) -> bytes:
    try:
        if lz4.frame.get_frame_info(frame)["content_size"] != size_bytes:
            raise FrameCorrupted(f"the frame does not say that it holds {size_bytes} bytes")
        block, read = lz4.frame.decompress(frame, return_bytes_read=True)
    except (RuntimeError, ValueError) as error:
        raise FrameCorrupted(str(error)) from None
    if read != len(frame):
        raise FrameCorrupted(f"{len(frame) - read} bytes follow the frame")
    whole: bytes = block
    return whole
