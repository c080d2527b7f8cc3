"""`gridwright why`: what an operation waits for."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from gridwright_cli.admin_port import AdminPort
from gridwright_cli.cas.endings import ending_well

_DEFAULT_ADMIN = "http://127.0.0.1:9073"


def why(
    operation: Annotated[str, typer.Argument(metavar="OPERATION", help="The name of an operation.")],
    admin: Annotated[
        str,
        typer.Option(
            "--admin",
            metavar="ADDRESS",
            help="The admin address of a scheduler: HOST:PORT, unix:PATH. "
            "Of `gridwright up` it is unix:DATA/run/scheduler-admin.sock.",
        ),
    ] = _DEFAULT_ADMIN,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say why an operation is not done yet, or how it ended.

    Of one that is queued: how many come before it, and what the workers lack that could run it.

    Exit status: 0; 121 if the scheduler cannot be reached, 123 if it does not know the operation.
    """
    try:
        port = AdminPort(admin)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--admin") from None
    with ending_well():
        answer = port.answer("why", operation)
        if as_json:
            print(json.dumps(answer, indent=2))
        else:
            print(f"{answer['stage']} since {answer['since']}: {answer['why']}")
