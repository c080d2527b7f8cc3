"""From the options of a command to its action cache."""

from __future__ import annotations

from pathlib import Path

from gridwright_cli.ac.directory import DirectoryPlace
from gridwright_cli.ac.endpoint import EndpointPlace
from gridwright_cli.ac.place import ActionCachePlace


def place_of(remote: str, instance: str, directory: Path | None) -> ActionCachePlace:
    """Return the directory, if there is one, or the endpoint.

    Raises:
        typer.BadParameter: the endpoint is no address.
    """
    return EndpointPlace(remote, instance) if directory is None else DirectoryPlace(directory, instance)
