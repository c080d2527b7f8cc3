"""`gridwright cas get`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from gridwright.digest import Digest
from gridwright.errors import BlobCorrupted
from gridwright_cli.cas.digests import STDIN, FunctionOption, digest_of, function_of
from gridwright_cli.cas.directory import maintenance
from gridwright_cli.cas.draft import Draft
from gridwright_cli.cas.endings import ending_well
from gridwright_cli.cas.endpoint import connected
from gridwright_cli.cas.place import (
    Directory,
    DomainOption,
    Endpoint,
    EndpointOption,
    Place,
    place_and_rest,
)
from gridwright_cli.cas.progress import Report, Show, progress_shown
from gridwright_cli.remote import DEFAULT_INSTANCE, InstanceOption


def get(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="PLACE DIGEST", help="A store's directory or an endpoint, and a digest."),
    ] = None,
    endpoint: EndpointOption = None,
    instance: InstanceOption = DEFAULT_INSTANCE,
    storage_domain: DomainOption = None,
    digest_function: FunctionOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write it.", show_default="stdout")
    ] = None,
) -> None:
    """Fetch one blob, checking its hash on the way.

    A file appears whole and right, or not at all; what goes to stdout is out before its end is checked,
    so look at the exit status.

    Exit status: 0; 121 if the endpoint cannot be reached, 122 if it refuses, 123 if the blob is not there
    or is not what its digest says, 125 if the file cannot be written, or the directory is no store's.
    """
    place, texts = place_and_rest(arguments or [], endpoint, instance, storage_domain)
    if len(texts) != 1:
        raise typer.BadParameter(f"one digest, not {len(texts)}", param_hint="DIGEST")
    digest = digest_of(texts[0], function_of(digest_function))
    with ending_well():
        if output is None or str(output) == STDIN:
            with _duplicate_of(sys.stdout.fileno()) as fd:
                _copy(place, digest, fd)
        else:
            with Draft(output) as draft:
                _copy(place, digest, draft.fileno)
                draft.keep()


@contextmanager
def _duplicate_of(fd: int) -> Iterator[int]:
    """Give away standard output under another number: under its own, a process that we start has something else."""
    duplicate = os.dup(fd)
    try:
        yield duplicate
    finally:
        os.close(duplicate)


def _copy(place: Place, digest: Digest, fd: int) -> None:
    """Write the blob to *fd*.

    Raises:
        BlobCorrupted: it has another hash.
    """
    with progress_shown() as show:
        match place:
            case Directory():
                options = ["--to-fd", str(fd), str(digest)]
                with maintenance("get", [*place.arguments, *options], show, pass_fds=[fd]) as messages:
                    for _ in messages:
                        pass
            case Endpoint():
                asyncio.run(_copy_from_endpoint(place, digest, fd, show))


async def _copy_from_endpoint(endpoint: Endpoint, digest: Digest, fd: int, show: Show) -> None:
    hasher = digest.function.new()
    done = 0
    async with connected(endpoint) as connection:
        async for chunk in connection.store.get(digest):
            hasher.update(chunk)
            _write(fd, chunk)
            done += len(chunk)
            show(Report("fetching", done, digest.size_bytes, "bytes"))
    if (hasher.hexdigest(), done) != (digest.hash, digest.size_bytes):
        raise BlobCorrupted(digest)


def _write(fd: int, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        left = left[os.write(fd, left) :]
