"""The blob in what is stored under its digest, which may be compressed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from gridwright.digest import Digest
from gridwright_cas.stores.codecs import Codec, FrameCorrupted, Lz4Codec, ZstdCodec, decompress
from gridwright_cas.stores.seek_table import decode, length_of_table

_PIECE_BYTES = 1024 * 1024
_MAGIC_BYTES = 4
_FOOTER_BYTES = 16
#: A blob that is one frame has at most so many bytes.
_MAX_FRAME_BYTES = 16 * 1024 * 1024
_CODECS: dict[bytes, Callable[[], Codec]] = {ZstdCodec.MAGIC: ZstdCodec, Lz4Codec.MAGIC: Lz4Codec}


class Stored(Protocol):
    """What is stored under a digest."""

    size_bytes: int

    @abstractmethod
    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from *start* to *end*, checked.

        Raises:
            BlobCorrupted: they are not what was written.
            Unavailable: the disk does not answer.
        """
        ...


def codec_of(digest: Digest, stored: Stored) -> Codec | None:
    """Return how a blob that was put through a ``compression`` store is compressed; None: it was not."""
    if stored.size_bytes == digest.size_bytes:
        return None
    codec = _CODECS.get(stored.read(0, min(_MAGIC_BYTES, stored.size_bytes)))
    return codec() if codec is not None else None


def is_blob(digest: Digest, stored: Stored) -> bool:
    """Whether what is stored is the blob that *digest* names, compressed or not.

    Raises:
        BlobCorrupted, Unavailable: as ``Stored.read``.
    """
    if stored.size_bytes == digest.size_bytes and _is_hash_of(digest, _plain(stored)):
        return True
    try:
        return _is_hash_of(digest, _decompressed(digest, stored))
    except FrameCorrupted:
        return False


def blob_in(digest: Digest, stored: Stored) -> Iterator[bytes]:
    """Yield the pieces of the blob; whether they are the right ones is not looked at.

    Raises:
        FrameCorrupted: it is compressed, and damaged.
        BlobCorrupted, Unavailable: as ``Stored.read``.
    """
    # A compressed blob of just the size that it had before is worth a look, as long as that is short.
    same_size = stored.size_bytes == digest.size_bytes
    if same_size and (stored.size_bytes > _PIECE_BYTES or _is_hash_of(digest, _plain(stored))):
        return _plain(stored)
    if stored.read(0, min(_MAGIC_BYTES, stored.size_bytes)) in _CODECS:
        return _decompressed(digest, stored)
    return _plain(stored)


def _is_hash_of(digest: Digest, pieces: Iterable[bytes]) -> bool:
    hasher = digest.function.new()
    size_bytes = 0
    for piece in pieces:
        hasher.update(piece)
        size_bytes += len(piece)
    return (hasher.hexdigest(), size_bytes) == (digest.hash, digest.size_bytes)


def _plain(stored: Stored) -> Iterator[bytes]:
    for start in range(0, stored.size_bytes, _PIECE_BYTES):
        yield stored.read(start, min(start + _PIECE_BYTES, stored.size_bytes))


def _decompressed(digest: Digest, stored: Stored) -> Iterator[bytes]:
    end = stored.size_bytes
    table_bytes = length_of_table(stored.read(max(0, end - _FOOTER_BYTES), end), digest.size_bytes)
    table = decode(stored.read(max(0, end - table_bytes), end), digest.size_bytes) if table_bytes else None
    if table is None:
        if max(digest.size_bytes, end) > _MAX_FRAME_BYTES:
            raise FrameCorrupted("neither the blob nor one that is compressed")
        yield decompress(stored.read(0, end), digest.size_bytes)
        return
    for block in range(len(table.starts) - 1):
        yield decompress(stored.read(table.starts[block], table.starts[block + 1]), table.size_of(block))
