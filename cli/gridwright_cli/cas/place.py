"""Where the blobs are that a command is about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from gridwright_cli.remote import target_of

_HOST_AND_PORT = re.compile(r"[^/]+:\d+")

EndpointOption = Annotated[
    str | None,
    typer.Option("--endpoint", "--remote", metavar="ADDRESS", help="The endpoint, in place of PLACE."),
]
DomainOption = Annotated[
    str | None,
    typer.Option(
        "--storage-domain", metavar="NAME", help="Which storage domain of a content_path.", show_default="the only one"
    ),
]


@dataclass(frozen=True, slots=True)
class Directory:
    """The directory of a store, or the ``content_path`` that holds one for each storage domain."""

    path: Path
    domain: str | None

    @property
    def arguments(self) -> list[str]:
        """How the process that works on it is told."""
        return [str(self.path), *(["--storage-domain", self.domain] if self.domain is not None else [])]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A CAS that is reached by gRPC."""

    address: str
    target: str
    instance: str


Place = Directory | Endpoint


def place_and_rest(
    arguments: Sequence[str], endpoint: str | None, instance: str, domain: str | None
) -> tuple[Place, list[str]]:
    """Return the place that the first of *arguments*, or *endpoint*, names; and the other arguments.

    Raises:
        typer.BadParameter: it is none.
    """
    if endpoint is not None:
        return Endpoint(endpoint, target_of(endpoint), instance), list(arguments)
    if not arguments:
        raise typer.BadParameter("say where: a store's directory, or grpc://HOST:PORT", param_hint="PLACE")
    return place_of(arguments[0], instance, domain), list(arguments[1:])


def place_of(text: str, instance: str, domain: str | None) -> Place:
    """Return the directory or the endpoint that *text* names.

    Raises:
        typer.BadParameter: it is neither.
    """
    if "://" in text or text.startswith("unix:"):
        return Endpoint(text, target_of(text), instance)
    if Path(text).is_dir():
        return Directory(Path(text), domain)
    if _HOST_AND_PORT.fullmatch(text):
        return Endpoint(text, target_of(text), instance)
    raise typer.BadParameter(
        f"{text!r} is neither a directory here nor an endpoint such as grpc://HOST:PORT", param_hint="PLACE"
    )
