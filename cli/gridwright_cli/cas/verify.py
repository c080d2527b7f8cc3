"""`gridwright cas verify`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobCorrupted, GridwrightError, NotFound
from gridwright_cli.cas.digests import FunctionOption, digests_of, function_of, slices
from gridwright_cli.cas.directory import maintenance
from gridwright_cli.cas.endings import EXIT_BAD, ending_well
from gridwright_cli.cas.endpoint import connected
from gridwright_cli.cas.place import (
    Directory,
    DomainOption,
    Endpoint,
    EndpointOption,
    place_and_rest,
)
from gridwright_cli.cas.plain import count, size
from gridwright_cli.cas.progress import Report, Show, progress_shown
from gridwright_cli.cas.watched import WatchedStore
from gridwright_cli.remote import DEFAULT_INSTANCE, InstanceOption

_SMALL_BYTES = 64 * 1024
#: Small blobs are asked for together: so many are at most 16 MiB in memory.
_TOGETHER = 256


@dataclass(slots=True)
class _Verdict:
    """What was found so far."""

    blobs: int = 0
    size_bytes: int = 0
    bad: int = 0
    repaired: int = 0


def verify(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="PLACE [DIGEST]...", help="A directory; or an endpoint, and digests (- for stdin)."),
    ] = None,
    endpoint: EndpointOption = None,
    instance: InstanceOption = DEFAULT_INSTANCE,
    storage_domain: DomainOption = None,
    digest_function: FunctionOption = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Take what is bad out of a directory's store, into its quarantine.")
    ] = False,
) -> None:
    """Check stored blobs: every record and block of a directory, or digests that an endpoint is to have.

    Each blob's checksums and hash are compared. A service may run on the directory. What is bad is named
    on stdout, one line each.

    Exit status: 0 if all is well; 1 if something is bad or missing; 121 if the endpoint cannot be reached,
    122 if it refuses, 125 if the directory is no store's or cannot be read.
    """
    place, texts = place_and_rest(arguments or [], endpoint, instance, storage_domain)
    function = function_of(digest_function)
    with ending_well():
        if isinstance(place, Directory):
            verdict = _verify_directory(place, texts, repair)
        else:
            verdict = asyncio.run(_verify_endpoint(place, _named(texts, repair, function)))
        repaired = f", {verdict.repaired:,} of them taken out" if verdict.repaired else ""
        print(f"checked {count(verdict.blobs, 'blob')}, {size(verdict.size_bytes)}: {verdict.bad:,} bad{repaired}")
    if verdict.bad:
        raise typer.Exit(EXIT_BAD)


def _verify_directory(directory: Directory, texts: Sequence[str], repair: bool) -> _Verdict:
    if texts:
        raise typer.BadParameter("a directory is checked as a whole: leave the digests out", param_hint="DIGEST")
    verdict = _Verdict()
    options = ["--repair"] if repair else []
    with progress_shown() as show, maintenance("verify", [*directory.arguments, *options], show) as messages:
        for message in messages:
            match message:
                case {"bad": bad}:
                    _name_bad(bad["digest"], f"{bad['why']} ({bad['where']})")
                case {"result": result}:
                    verdict = _Verdict(result["blobs"], result["bytes"], result["bad"], result["repaired"])
    return verdict


def _named(texts: Sequence[str], repair: bool, function: DigestFunction | None) -> Iterator[Digest]:
    if repair:
        raise typer.BadParameter(
            "an endpoint cannot be repaired from outside: run this on its machine, with its directory",
            param_hint="--repair",
        )
    if not texts:
        raise typer.BadParameter(
            "the protocol cannot list blobs: name the digests to check, or give them on stdin (-)", param_hint="DIGEST"
        )
    return digests_of(texts, function)


async def _verify_endpoint(endpoint: Endpoint, digests: Iterator[Digest]) -> _Verdict:
    async with connected(endpoint) as connection:
        with progress_shown() as show:
            checker = _Checker(connection.store, show)
            for some in slices(digests, _TOGETHER):
                await checker.check(some)
            return checker.verdict


class _Checker:
    """Reads blobs and compares them with their digests."""

    def __init__(self, store: BlobStore, show: Show) -> None:
        self.verdict = _Verdict()
        self._store = WatchedStore(store, self._count)
        self._show = show

    async def check(self, digests: list[Digest]) -> None:
        """Check some digests, naming those that are bad.

        Raises:
            GridwrightError: the endpoint does not answer, which says nothing of the blobs.
        """
        small = {digest for digest in digests if digest.size_bytes <= _SMALL_BYTES}
        found = await self._store.get_many(small) if small else {}
        for digest in digests:
            self.verdict.blobs += 1
            blob = found.get(digest)
            try:
                if isinstance(blob, GridwrightError):
                    raise blob
                if not (await self._is_right(digest) if blob is None else digest.function.digest(blob) == digest):
                    self._bad(digest, "its bytes have another hash")
            except (NotFound, BlobCorrupted) as error:
                self._bad(digest, "not found" if isinstance(error, NotFound) else str(error))

    async def _is_right(self, digest: Digest) -> bool:
        hasher = digest.function.new()
        read_bytes = 0
        async for chunk in self._store.get(digest):
            hasher.update(chunk)
            read_bytes += len(chunk)
        return (hasher.hexdigest(), read_bytes) == (digest.hash, digest.size_bytes)

    def _bad(self, digest: Digest, why: str) -> None:
        self.verdict.bad += 1
        _name_bad(str(digest), why)

    def _count(self, size_bytes: int) -> None:
        self.verdict.size_bytes += size_bytes
        self._show(Report("reading", self.verdict.size_bytes, None, "bytes"))


def _name_bad(digest: str, why: str) -> None:
    print(f"{digest}: {why}", flush=True)
