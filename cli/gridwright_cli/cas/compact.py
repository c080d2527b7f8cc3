"""`gridwright cas compact`."""

from __future__ import annotations

from typing import Annotated

import typer

from gridwright_cli.cas.directory import maintenance
from gridwright_cli.cas.endings import ending_well
from gridwright_cli.cas.place import (
    DomainOption,
    Endpoint,
    EndpointOption,
    place_and_rest,
)
from gridwright_cli.cas.plain import count, size
from gridwright_cli.cas.progress import progress_shown
from gridwright_cli.exits import complain
from gridwright_cli.remote import DEFAULT_INSTANCE


def compact(
    place: Annotated[str | None, typer.Argument(metavar="DIRECTORY", help="A store's directory.")] = None,
    endpoint: EndpointOption = None,
    storage_domain: DomainOption = None,
    live_below: Annotated[
        int,
        typer.Option(
            "--live-below", min=1, max=100, metavar="PERCENT", help="Rewrite segments of which less than this is live."
        ),
    ] = 50,
) -> None:
    """Rewrite segments that hold little, so that the rest of their room is free.

    Removed blobs leave gaps in the segments; a segment's live blobs are written once more, and the
    segment goes. A service may run on the directory. Ctrl-C leaves everything whole.

    Exit status: 0; 123 if there is no room for the copies, 125 if the directory is no store's.
    """
    where, _ = place_and_rest([place] if place is not None else [], endpoint, DEFAULT_INSTANCE, storage_domain)
    if isinstance(where, Endpoint):
        raise typer.BadParameter(
            "the protocol has no compaction: run this on the machine of the CAS, with its directory",
            param_hint="DIRECTORY",
        )
    options = ["--live-below", str(live_below)]
    with (
        ending_well(),
        progress_shown() as show,
        maintenance("compact", [*where.arguments, *options], show) as messages,
    ):
        for message in messages:
            result = message["result"]
            for segment in result["damaged"]:
                complain(f"segment {segment} has damaged records, and stays: see `gridwright cas verify --repair`")
            print(
                f"rewrote {count(result['segments'], 'segment')}: copied {count(result['blobs'], 'blob')},"
                f" {size(result['copied_bytes'])}; freed {size(result['freed_bytes'])}"
            )
