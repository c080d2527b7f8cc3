"""What a compressor does to a stream, whichever it is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from gridwright.blobs.store import CHUNK_BYTES
from gridwright.errors import InvalidRequest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb

#: No decoder hands out more at once, however little it came from: a bomb costs one piece, not a gigabyte.
PIECE_BYTES = CHUNK_BYTES


class Decoder(Protocol):
    """Decompresses one stream as it comes.

    It does not know how large the blob is. Who takes the pieces counts them, and leaves when
    they are too many (checklist CMP-07).

    What comes out is what went in when nothing at all came in: the empty stream is the empty blob.
    """

    @abstractmethod
    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield what *data* adds, in pieces of ``PIECE_BYTES`` at most; take them all before the next call.

        Raises:
            InvalidRequest: the stream is damaged, something follows it, or it needs more memory than it may.
        """
        ...

    @abstractmethod
    def finish(self) -> None:
        """The stream is over.

        Raises:
            InvalidRequest: it is cut off (checklist CMP-06).
        """
        ...


class Encoder(Protocol):
    """Compresses one stream as it goes; quickly rather than well, since it is done for each reader."""

    @abstractmethod
    def encode(self, data: bytes) -> bytes:
        """Return what is to be sent so far of *data*, and of what came before it; perhaps nothing."""
        ...

    @abstractmethod
    def finish(self) -> bytes:
        """Return what remains to be sent."""
        ...


class Compressor(NamedTuple):
    """One of REAPI's compressors."""

    #: As it is spelled in a resource name.
    name: str
    #: As it is in a message.
    number: pb.Compressor.Value
    decoder: Callable[[], Decoder]
    encoder: Callable[[], Encoder]


def damaged(compressor: str, why: object) -> InvalidRequest:
    """Return the error for a stream that is none."""
    return InvalidRequest(f"the {compressor} data cannot be decompressed: {why}; compress the blob again", field="data")


def cut_off(compressor: str) -> InvalidRequest:
    """Return the error for a stream that ends early."""
    return damaged(compressor, "it ends before the end of the stream")


def trailing(compressor: str) -> InvalidRequest:
    """Return the error for a stream with something behind it."""
    return damaged(compressor, "something follows the end of the stream")
