"""Uploads that may break off and be taken up again where they were."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import AsyncIterable
from typing import NamedTuple, Protocol

from gridwright.digest import Digest


class UploadName(NamedTuple):
    """What names an upload: two clients that send the same blob have two uploads (checklist BSN-11)."""

    uuid: str
    digest: Digest
    #: How the bytes are packed that a client sends, as REAPI calls it; "" if they are the blob's. What is kept of an
    #: upload are always the blob's own bytes.
    compressor: str = ""

    @property
    def file_name(self) -> str:
        """A name that needs no escaping, whatever a client has chosen for its uuid."""
        digest = self.digest
        parts = (self.uuid, digest.function.name, digest.hash, str(digest.size_bytes), self.compressor)
        packed = [part.encode(errors="surrogatepass") for part in parts]
        return hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in packed)).hexdigest()[:40]


class ResumableUploads(Protocol):
    """Keeps what came of each upload, so that one which breaks off need not begin again.

    Large uploads take minutes, and connections break, servers are replaced. What came is kept for an hour, whoever
    asks for it then: another process that serves the same directory, or the next one after a restart.
    """

    @abstractmethod
    async def committed_bytes(self, name: UploadName) -> int:
        """Return how many bytes of the blob are kept; 0 also of an upload never heard of."""
        ...

    @abstractmethod
    async def put(self, name: UploadName, offset: int, chunks: AsyncIterable[bytes]) -> None:
        """Go on with an upload at *offset*, and keep the blob when *chunks* end.

        What was kept beyond *offset* is dropped; at 0 an upload begins anew. A client may not know of all that was
        kept: more of what a broken call had sent comes to the disk after it has asked.

        If *chunks* raises, what came before stays, and the error passes through. An empty chunk says that the source
        stands still, or that memory is short: when the next one is asked for, nothing of those before it is in memory.

        Raises:
            InvalidRequest: *offset* is beyond what is kept; before the first chunk.
            Aborted: another call is at this upload; before the first chunk. Or our own copy of its first bytes is not
                what came; begin again at 0.
            DigestMismatch: the bytes are not the blob; none of them are kept.
            ResourceExhausted: there is no room; what came before stays.
        """
        ...

    @abstractmethod
    async def forget(self, name: UploadName) -> None:
        """Drop what is kept of an upload, unless another call is at it."""
        ...
