"""`gridwright ac purge`."""

from __future__ import annotations

from typing import Annotated

import typer

from gridwright.protos.gridwright.actioncache.v1 import operator_pb2 as pb
from gridwright_cli.ac.moments import moment_of
from gridwright_cli.ac.place import DirectoryOption
from gridwright_cli.ac.places import place_of
from gridwright_cli.cas.endings import ending_well
from gridwright_cli.cas.plain import count
from gridwright_cli.cas.progress import progress_shown
from gridwright_cli.remote import DEFAULT_INSTANCE, DEFAULT_REMOTE, InstanceOption, RemoteOption


def purge(
    remote: RemoteOption = DEFAULT_REMOTE,
    instance: InstanceOption = DEFAULT_INSTANCE,
    directory: DirectoryOption = None,
    worker: Annotated[
        str, typer.Option("--worker", metavar="NAME", help="Results that this worker made.", show_default=False)
    ] = "",
    subject: Annotated[
        str, typer.Option("--subject", metavar="NAME", help="Results that this caller wrote.", show_default=False)
    ] = "",
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Results stored since: 2026-11-20T03:00:00Z, or 2h for ago."),
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Results stored before.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count them.")] = False,
) -> None:
    """Revoke all results that came from somewhere: what all of the options say is true of each of them.

    Stop what makes bad results first: those that come meanwhile may stay. An endpoint wants the role admin
    for it.

    Exit status: 0; 121 if the endpoint cannot be reached, 122 if it refuses, 125 if the directory is no
    action cache's.
    """
    what = pb.PurgeRequest(worker=worker, subject=subject, dry_run=dry_run)
    if since is not None:
        what.since.CopyFrom(moment_of(since, option="--since"))
    if until is not None:
        what.until.CopyFrom(moment_of(until, option="--until"))
    if what == pb.PurgeRequest(dry_run=dry_run):
        raise typer.BadParameter("say which: --worker, --subject, --since or --until", param_hint="purge")
    with ending_well(), progress_shown() as show:
        answer = place_of(remote, instance, directory).purge(what, show)
    print(
        f"{'would remove' if dry_run else 'removed'} {count(answer.removed, 'result')} of "
        f"{answer.examined:,} that are stored"
    )
