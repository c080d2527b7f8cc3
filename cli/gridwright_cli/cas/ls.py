"""`gridwright cas ls`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from gridwright.digest import Digest
from gridwright_cli.cas.digests import FunctionOption, digest_of, function_of
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
from gridwright_cli.cas.plain import moment, size
from gridwright_cli.cas.progress import Report
from gridwright_cli.cas.tree import fetch_tree, tree_lines
from gridwright_cli.remote import DEFAULT_INSTANCE, InstanceOption


def ls(
    place: Annotated[str | None, typer.Argument(metavar="PLACE", help="A store's directory, or an endpoint.")] = None,
    endpoint: EndpointOption = None,
    instance: InstanceOption = DEFAULT_INSTANCE,
    storage_domain: DomainOption = None,
    digest_function: FunctionOption = None,
    long: Annotated[bool, typer.Option("--long", "-l", help="Also sizes, last use, and where each is.")] = False,
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="HEX", help="Only hashes that begin so.", show_default=False)
    ] = "",
    tree: Annotated[
        str | None,
        typer.Option("--tree", metavar="DIGEST", help="The files of this Directory and all below it (endpoints only)."),
    ] = None,
) -> None:
    """List the blobs of a store's directory, or a directory tree that an endpoint holds.

    The blobs come in the order of digest function and hash. The list is not a snapshot: a service may
    run on the directory.

    Exit status: 0; 121 if the endpoint cannot be reached, 122 if it refuses, 123 if it has no such tree,
    125 if the directory is no store's.
    """
    where, _ = place_and_rest([place] if place is not None else [], endpoint, instance, storage_domain)
    function = function_of(digest_function)
    if prefix.strip("0123456789abcdef"):
        raise typer.BadParameter(f"{prefix!r} begins no hash: they are lower-case hexadecimal", param_hint="--prefix")
    with ending_well():
        if isinstance(where, Endpoint):
            if tree is None:
                raise typer.BadParameter(
                    "the protocol cannot list the blobs of an endpoint; with --tree DIGEST it lists the files of a"
                    " directory there, and a store's own directory can be listed on its machine",
                    param_hint="PLACE",
                )
            asyncio.run(_list_tree(where, digest_of(tree, function), long))
            return
        if tree is not None:
            raise typer.BadParameter("trees are listed from an endpoint", param_hint="--tree")
        options = ["--digest-function", function.name] if function is not None else []
        _list_blobs(where, [*options, "--prefix", prefix], long)


def _list_blobs(directory: Directory, options: list[str], long: bool) -> None:
    with maintenance("ls", [*directory.arguments, *options], _no_progress) as messages:
        for message in messages:
            match message:
                case {"blob": blob}:
                    print(_long_line(blob) if long else blob["digest"])


def _long_line(blob: dict[str, Any]) -> str:
    return f"{moment(blob['touched'])} {size(blob['stored_bytes']):>10} {blob['where']:<14} {blob['digest']}"


async def _list_tree(endpoint: Endpoint, root: Digest, long: bool) -> None:
    async with connected(endpoint) as connection:
        directories = await fetch_tree(connection, endpoint.instance, root)
    for line in tree_lines(root, directories, long=long):
        print(line)


def _no_progress(report: Report) -> None:
    """The list itself shows how far it has come."""
