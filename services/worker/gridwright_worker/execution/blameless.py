"""What goes wrong between the worker and its CAS, told as what it is."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterator, Mapping, Set
from contextlib import aclosing, contextmanager

from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest
from gridwright.errors import (
    DeadlineExceeded,
    GridwrightError,
    InternalError,
    NotFound,
    OutOfRange,
    ResourceExhausted,
    Unavailable,
)


class BlamelessStore(BlobStore):
    """Holds the client blameless for errors of the CAS that the worker uses.

    A worker's errors travel on to the client of the action. There INVALID_ARGUMENT would
    say that the action is wrong, and DEADLINE_EXCEEDED that it took too long, where in truth
    the worker named an instance that the CAS does not know, or the CAS is slow. Absence,
    a full store and unavailability mean to the client what they mean here, and pass.
    """

    def __init__(self, inner: BlobStore) -> None:
        self._inner = inner

    async def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        with _translated():
            async with aclosing(self._inner.get(digest, offset=offset, limit=limit)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    yield chunk

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        raised: list[GridwrightError] = []
        try:
            await self._inner.put(digest, _noting(chunks, raised))
        except GridwrightError as error:
            if error in raised:
                raise  # what the bytes come from has failed, not the CAS
            raise _translate(error) from error

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        with _translated():
            return await self._inner.missing(digests)

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        with _translated():
            found = await self._inner.get_many(digests)
        return {digest: _translate(one) if isinstance(one, GridwrightError) else one for digest, one in found.items()}

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        with _translated():
            kept = await self._inner.put_many(blobs)
        return {digest: _translate(error) if error else None for digest, error in kept.items()}


async def _noting(chunks: AsyncIterable[bytes], raised: list[GridwrightError]) -> AsyncIterator[bytes]:
    """Pass *chunks* on, and note the error with which they end."""
    try:
        async for chunk in chunks:
            yield chunk
    except GridwrightError as error:
        raised.append(error)
        raise


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except GridwrightError as error:
        raise _translate(error) from error


def _translate(error: GridwrightError) -> GridwrightError:
    match error:
        case NotFound() | OutOfRange() | Unavailable() | ResourceExhausted() | InternalError():
            return error
        case DeadlineExceeded():
            return Unavailable(f"the CAS did not answer in time: {error}")
        case _:
            return InternalError(f"the CAS refused the worker: {error}")
