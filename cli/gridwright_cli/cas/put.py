"""`gridwright cas put`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from gridwright.blobs.store import CHUNK_BYTES
from gridwright.digest import Digest, DigestFunction
from gridwright_cli.cas.digests import STDIN, FunctionOption, function_of
from gridwright_cli.cas.directory import maintenance
from gridwright_cli.cas.endings import ending_well
from gridwright_cli.cas.endpoint import connected
from gridwright_cli.cas.place import (
    Directory,
    DomainOption,
    Endpoint,
    EndpointOption,
    place_and_rest,
)
from gridwright_cli.cas.progress import Report, Show, progress_shown
from gridwright_cli.cas.watched import WatchedStore
from gridwright_cli.execute.input_tree import UnusableInput
from gridwright_cli.execute.upload import upload
from gridwright_cli.remote import DEFAULT_INSTANCE, InstanceOption


def put(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="PLACE FILE...", help="A store's directory or an endpoint, and files (- for stdin)."),
    ] = None,
    endpoint: EndpointOption = None,
    instance: InstanceOption = DEFAULT_INSTANCE,
    storage_domain: DomainOption = None,
    digest_function: FunctionOption = None,
) -> None:
    """Store files, and print their digests: a line for each, in the order of the files.

    What is there already is not sent again.

    Exit status: 0, everything printed is kept; 121 if the endpoint cannot be reached, 122 if it refuses,
    123 if there is no room, 125 if a file cannot be read, or the directory is no store's.
    """
    place, names = place_and_rest(arguments or [], endpoint, instance, storage_domain)
    function = function_of(digest_function) or DigestFunction.SHA256
    if not names:
        raise typer.BadParameter("say which: files, or - for standard input", param_hint="FILE")
    with ending_well():
        with progress_shown() as show, _files(names) as paths:
            digests = _digests_of(paths, function, show)
            blobs = dict(zip(digests, paths, strict=True))
            match place:
                case Directory():
                    _put_into_directory(place, blobs, show)
                case Endpoint():
                    asyncio.run(_put_to_endpoint(place, blobs, show))
        for digest in digests:
            print(digest)


@contextmanager
def _files(names: Sequence[str]) -> Iterator[list[Path]]:
    """Give away the files of these names; standard input becomes one, as its digest must be known before it is sent."""
    with tempfile.NamedTemporaryFile(prefix="gridwright-put-") as spooled:
        if STDIN in names:
            while chunk := sys.stdin.buffer.read(CHUNK_BYTES):
                spooled.write(chunk)
            spooled.flush()
        yield [Path(spooled.name if name == STDIN else name) for name in names]


def _digests_of(paths: Sequence[Path], function: DigestFunction, show: Show) -> list[Digest]:
    digests: list[Digest] = []
    done = 0
    try:
        total = sum(path.stat().st_size for path in paths)
        for path in paths:
            hasher, size_bytes = function.new(), 0
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    hasher.update(chunk)
                    size_bytes += len(chunk)
                    show(Report("hashing", done + size_bytes, total, "bytes"))
            done += size_bytes
            digests.append(Digest(function, hasher.hexdigest(), size_bytes))
    except OSError as error:
        raise UnusableInput(f"cannot read {error.filename}: {error.strerror}") from None
    return digests


def _put_into_directory(directory: Directory, blobs: Mapping[Digest, Path], show: Show) -> None:
    pairs = [text for digest, path in blobs.items() for text in (str(digest), str(path))]
    with maintenance("put", [*directory.arguments, "--", *pairs], show) as messages:
        for _ in messages:
            pass


async def _put_to_endpoint(endpoint: Endpoint, blobs: Mapping[Digest, Path], show: Show) -> None:
    total = sum(digest.size_bytes for digest in blobs)
    done = 0

    def count(size_bytes: int) -> None:
        nonlocal done
        done += size_bytes
        show(Report("storing", done, total, "bytes"))

    async with connected(endpoint) as connection:
        await upload(WatchedStore(connection.store, count), blobs, lambda text: None)
