"""`gridwright ac get`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gridwright.protos.gridwright.actioncache.v1 import operator_pb2 as pb
from gridwright_cli.ac.place import DirectoryOption
from gridwright_cli.ac.places import place_of
from gridwright_cli.ac.words import provenance_line, result_lines
from gridwright_cli.cas.digests import FunctionOption, digest_of, function_of
from gridwright_cli.cas.endings import EXIT_BAD, ending_well
from gridwright_cli.remote import DEFAULT_INSTANCE, DEFAULT_REMOTE, InstanceOption, RemoteOption


def get(
    digest: Annotated[str, typer.Argument(metavar="DIGEST", help="The digest of an action, HASH/SIZE.")],
    remote: RemoteOption = DEFAULT_REMOTE,
    instance: InstanceOption = DEFAULT_INSTANCE,
    directory: DirectoryOption = None,
    digest_function: FunctionOption = None,
    raw: Annotated[bool, typer.Option("--raw", help="The bytes of the ActionResult instead of words.")] = False,
) -> None:
    """Show the stored result of an action, also one that no client is given, and where it came from.

    Exit status: 0; 1 if nothing is stored, 121 if the endpoint cannot be reached, 122 if it refuses, 125 if
    the directory is no action cache's.
    """
    action = digest_of(digest, function_of(digest_function))
    with ending_well():
        answer = place_of(remote, instance, directory).explain(action)
        if answer.verdict == pb.ExplainResponse.ABSENT:
            print(f"{action}: not found", file=sys.stderr)
            raise typer.Exit(EXIT_BAD)
        if raw:
            sys.stdout.buffer.write(answer.action_result)
            return
        print(provenance_line(answer))
        for line in result_lines(answer):
            print(line)
