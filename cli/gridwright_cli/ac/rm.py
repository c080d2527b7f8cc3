"""`gridwright ac rm`."""

from __future__ import annotations

from typing import Annotated

import typer

from gridwright_cli.ac.place import DirectoryOption
from gridwright_cli.ac.places import place_of
from gridwright_cli.cas.digests import STDIN, FunctionOption, digest_of, digests_of, function_of
from gridwright_cli.cas.endings import ending_well
from gridwright_cli.cas.plain import count
from gridwright_cli.remote import DEFAULT_INSTANCE, DEFAULT_REMOTE, InstanceOption, RemoteOption


def rm(
    digests: Annotated[list[str], typer.Argument(metavar="DIGEST...", help="Digests of actions (- for stdin).")],
    remote: RemoteOption = DEFAULT_REMOTE,
    instance: InstanceOption = DEFAULT_INSTANCE,
    directory: DirectoryOption = None,
    digest_function: FunctionOption = None,
) -> None:
    """Remove the results of single actions; those that are not stored are passed over.

    An endpoint wants the role admin for it.

    Exit status: 0; 121 if the endpoint cannot be reached, 122 if it refuses, 125 if the directory is no
    action cache's.
    """
    function = function_of(digest_function)
    for text in digests:
        if text != STDIN:
            digest_of(text, function)
    with ending_well():
        removed = place_of(remote, instance, directory).remove(digests_of(digests, function))
        print(f"removed what was stored for {count(removed, 'action')}")
