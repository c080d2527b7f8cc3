"""`gridwright config`: check settings, and import those of NativeLink."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from gridwright.errors import ConfigurationError
from gridwright_cli.config.findings import Findings
from gridwright_cli.config.nativelink_file import read_nativelink_file
from gridwright_cli.config.nativelink_import import translate
from gridwright_cli.exits import EXIT_PATHS, EXIT_USAGE, complain
from gridwright_cli.up.services import SERVICES

#: A service only reads its settings, which takes a second on a machine that is not busy.
_CHECK_SECONDS = 60

config = typer.Typer(help="Check settings files, and import those of NativeLink.", no_args_is_help=True)


@config.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="NativeLink's configuration (JSON5).", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write the settings.", show_default="stdout")
    ] = None,
) -> None:
    """Translate a configuration of NativeLink into a settings file of Gridwright.

    Says on stderr what was ignored or changed, and why. Variables of the environment
    (`${VAR:-default}`) are filled in.

    Exit status: 0; 2 if the file cannot be translated; 125 if a file cannot be read or written.
    """
    findings = Findings()
    try:
        settings = translate(read_nativelink_file(file, os.environ, findings), findings)
    except ConfigurationError as error:
        complain(str(error))
        raise typer.Exit(EXIT_USAGE if file.is_file() else EXIT_PATHS) from None
    for note in findings.notes:
        print(note, file=sys.stderr)
    if findings.faults:
        for fault in findings.faults:
            complain(fault)
        raise typer.Exit(EXIT_USAGE)
    text = f"# Translated from {file.name} by `gridwright config import`.\n" + yaml.safe_dump(
        settings, sort_keys=False, allow_unicode=True
    )
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text)
    except OSError as error:
        complain(f"cannot write {output}: {error.strerror}")
        raise typer.Exit(EXIT_PATHS) from None


@config.command()
def check(
    file: Annotated[Path, typer.Argument(help="A settings file of Gridwright (YAML).", show_default=False)],
) -> None:
    """Ask every service whether it could start with a settings file; nothing is started or opened.

    Exit status: 0; 78 if a service refuses, which says which keys it refuses and why.
    """
    asked = [
        subprocess.Popen(
            [sys.executable, "-m", service.module, "--config", str(file), "--check"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for service in SERVICES
    ]
    status = 0
    answers: dict[str, None] = {}
    for process in asked:
        try:
            _, answer = process.communicate(timeout=_CHECK_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            _, answer = process.communicate()
            answer += f"{process.args!r} did not answer within {_CHECK_SECONDS} s\n"
        status = status or process.returncode
        answers[answer] = None
    for answer in answers:
        print(answer, end="", file=sys.stderr)
    if status:
        raise typer.Exit(status)
    typer.echo(f"{file}: {len(SERVICES)} services can use it")
