"""`gridwright cas stats`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_cli.admin_port import AdminPort
from gridwright_cli.capabilities import rows as capability_rows
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
from gridwright_cli.cas.plain import columns, duration, moment, size
from gridwright_cli.cas.progress import progress_shown
from gridwright_cli.remote import DEFAULT_INSTANCE, InstanceOption

_METRICS = "gridwright_cas_"


def stats(
    place: Annotated[str | None, typer.Argument(metavar="PLACE", help="A store's directory, or an endpoint.")] = None,
    endpoint: EndpointOption = None,
    instance: InstanceOption = DEFAULT_INSTANCE,
    storage_domain: DomainOption = None,
    admin: Annotated[
        str | None,
        typer.Option(
            "--admin", metavar="ADDRESS", help="The admin address of an endpoint's CAS: HOST:PORT, unix:PATH."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a store holds, or what an endpoint says of itself.

    Exit status: 0; 121 if the endpoint cannot be reached, 122 if it refuses, 125 if the directory is no store's.
    """
    where, _ = place_and_rest([place] if place is not None else [], endpoint, instance, storage_domain)
    with ending_well():
        if isinstance(where, Directory):
            found = _of_directory(where)
            lines = _directory_lines(found)
        else:
            found = _of_endpoint(where, admin)
            lines = _endpoint_lines(found)
        if as_json:
            print(json.dumps(found, indent=2))
        else:
            for line in lines:
                print(line)


def _of_directory(directory: Directory) -> Mapping[str, Any]:
    result: Mapping[str, Any] = {}
    with progress_shown() as show, maintenance("stats", directory.arguments, show) as messages:
        for message in messages:
            result = message["result"]
    return result


def _directory_lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield from columns(_directory_rows(found))
    if segments := found["segments"]:
        yield ""
        yield from columns(_segment_rows(segments), right=(0, 1, 2, 3))


def _directory_rows(found: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    yield "directory", found["directory"]
    yield "blobs", f"{found['blobs']:,}"
    for kind in ("small", "large", "partial", "quarantine"):
        part = found[kind]
        yield kind, f"{part['count']:,}, {size(part['bytes'])}"
    of = f" of {size(found['max_bytes'])}" if found["max_bytes"] else ""
    yield "takes", f"{size(found['used_bytes'])}{of}, the index {size(found['index_bytes'])} of it"
    yield "last used", f"{moment(found['oldest_touch'])} to {moment(found['newest_touch'])}"
    if found["oldest_touch"]:
        yield "retention", f"the least recently used blob was used {duration(found['oldest_touch_seconds'])} ago"


def _segment_rows(segments: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[str]]:
    yield "segment", "size", "live", "blobs", "last used", "state"
    for one in segments:
        share = f"{100 * one['live_bytes'] / one['bytes']:.0f} %" if one["bytes"] else "-"
        state = "open" if one["open"] else "sealed"
        yield str(one["segment"]), size(one["bytes"]), share, f"{one['blobs']:,}", moment(one["newest_touch"]), state


def _of_endpoint(endpoint: Endpoint, admin: str | None) -> Mapping[str, Any]:
    found: dict[str, Any] = {
        "endpoint": endpoint.address,
        "instance": endpoint.instance,
        "capabilities": dict(capability_rows(asyncio.run(_capabilities(endpoint)))),
    }
    if admin is not None:
        try:
            port = AdminPort(admin)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--admin") from None
        found["status"] = port.status()
        found["metrics"] = dict(port.metrics(_METRICS))
    return found


async def _capabilities(endpoint: Endpoint) -> pb.ServerCapabilities:
    async with connected(endpoint) as connection:
        return connection.capabilities


def _endpoint_lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield from columns([("endpoint", found["endpoint"]), ("instance", found["instance"] or "(empty)")])
    yield ""
    yield from columns(found["capabilities"].items())
    if "status" not in found:
        yield ""
        yield "What its stores hold, the protocol does not tell: name the CAS's admin address with --admin."
        return
    yield ""
    yield from columns(_flat(found["status"]))
    if found["metrics"]:
        yield ""
        yield from columns(found["metrics"].items())


def _flat(status: Mapping[str, Any], path: str = "") -> Iterator[Sequence[str]]:
    for name, value in status.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield path + name, str(value)
