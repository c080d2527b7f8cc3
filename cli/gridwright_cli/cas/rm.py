"""`gridwright cas rm`."""

from __future__ import annotations

from typing import Annotated

import typer

from gridwright_cli.cas.digests import STDIN, FunctionOption, digest_of, function_of
from gridwright_cli.cas.directory import maintenance
from gridwright_cli.cas.endings import EXIT_BAD, ending_well
from gridwright_cli.cas.place import (
    DomainOption,
    Endpoint,
    EndpointOption,
    place_and_rest,
)
from gridwright_cli.cas.plain import count, size
from gridwright_cli.cas.progress import progress_shown
from gridwright_cli.remote import DEFAULT_INSTANCE


def rm(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="DIRECTORY DIGEST...", help="A store's directory, and digests (- for stdin)."),
    ] = None,
    endpoint: EndpointOption = None,
    storage_domain: DomainOption = None,
    digest_function: FunctionOption = None,
) -> None:
    """Remove blobs from a store's directory.

    A service that runs on the directory hears of it and stops serving them. The room of small blobs is
    free once their segment is compacted or evicted.

    Exit status: 0; 1 if one was not there (it is named on stdout), 125 if the directory is no store's.
    """
    place, texts = place_and_rest(arguments or [], endpoint, DEFAULT_INSTANCE, storage_domain)
    if isinstance(place, Endpoint):
        raise typer.BadParameter(
            "the protocol has no way to remove a blob: run this on the machine of the CAS, with its directory",
            param_hint="DIRECTORY",
        )
    if not texts:
        raise typer.BadParameter("say which: HASH/SIZE, or - for a list on stdin", param_hint="DIGEST")
    function = function_of(digest_function)
    named = [text if text == STDIN else str(digest_of(text, function)) for text in texts]
    absent = 0
    options = ["--digest-function", function.name] if function is not None else []
    with (
        ending_well(),
        progress_shown() as show,
        maintenance("rm", [*place.arguments, *options, "--", *named], show) as messages,
    ):
        for message in messages:
            match message:
                case {"absent": digest}:
                    absent += 1
                    print(f"{digest}: not found")
                case {"result": result}:
                    print(f"removed {count(result['removed'], 'blob')}, {size(result['bytes'])}")
    if absent:
        raise typer.Exit(EXIT_BAD)
