"""Some blocks of a compressed blob, as they are stored."""

from __future__ import annotations

from typing import NamedTuple

from gridwright_cas.stores.codecs import decompress, is_zstd_frame
from gridwright_cas.stores.seek_table import SeekTable


class StoredBlocks(NamedTuple):
    """The frames of blocks that follow one another, and where they lie in their blob."""

    frames: bytes
    table: SeekTable
    blocks: range

    @property
    def begin(self) -> int:
        """Where in the blob the first of them begins."""
        return self.blocks.start * self.table.block_bytes

    @property
    def size_bytes(self) -> int:
        """How many bytes of the blob they hold."""
        return min(self.blocks.stop * self.table.block_bytes, self.table.size_bytes) - self.begin

    @property
    def are_zstd(self) -> bool:
        """Whether the frames are those of Zstandard; a blob has frames of one kind only."""
        return is_zstd_frame(self.frames, self.table.size_of(self.blocks.start))

    def decompress(self) -> bytes:
        """Return the bytes that they hold.

        Raises:
            FrameCorrupted: a frame is damaged.
        """
        view = memoryview(self.frames)
        starts, origin = self.table.starts, self.table.starts[self.blocks.start]
        parts = [
            decompress(view[starts[block] - origin : starts[block + 1] - origin], self.table.size_of(block))
            for block in self.blocks
        ]
        return parts[0] if len(parts) == 1 else b"".join(parts)
