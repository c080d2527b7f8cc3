"""`gridwright execute`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer

from gridwright.errors import GridwrightError
from gridwright.wire.grpc_channel import GrpcChannel
from gridwright_cli.execute.action import Wish
from gridwright_cli.execute.input_tree import UnusableInput
from gridwright_cli.execute.output_files import UnusableOutput
from gridwright_cli.execute.running import Outcome, Runner, Streams, choose_function
from gridwright_cli.exits import EXIT_INTERRUPTED, EXIT_PATHS, complain, exit_status
from gridwright_cli.remote import (
    DEFAULT_INSTANCE,
    DEFAULT_REMOTE,
    InstanceOption,
    RemoteOption,
    ask_capabilities,
    request_metadata,
    target_of,
)


def execute(
    command: Annotated[list[str], typer.Argument(help="The command and its arguments, after `--`.")],
    remote: RemoteOption = DEFAULT_REMOTE,
    instance: InstanceOption = DEFAULT_INSTANCE,
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--input", exists=True, file_okay=False, help="A directory: what it holds is where the command runs."
        ),
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="A file or directory that the command makes; fetched to here. Repeatable."),
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An environment variable. Repeatable.")
    ] = None,
    platform: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="What the worker must have. Repeatable.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, metavar="SECONDS", help="How long the command may take.")
    ] = None,
    skip_cache: Annotated[bool, typer.Option("--skip-cache", help="Run it even if its result is known.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say what happens, also where stderr is no terminal.")
    ] = False,
) -> None:
    """Run one command on the grid.

    Uploads a directory, runs the command in it, prints what the command prints, and fetches
    the outputs into the current directory.

    Exit status: the command's own; else 2 for options that make no sense, 121 if the server cannot
    be reached, 122 if it refuses, 123 if it cannot run the action, 124 if the command ran out of time,
    125 for an input that cannot be read, an output that cannot be written, or was not made.
    """
    wish = Wish(
        arguments=command,
        output_paths=output or [],
        environment=dict(_pairs("--env", env)),
        platform=list(_pairs("--platform", platform)),
        timeout_seconds=timeout,
    )
    streams = Streams(sys.stdout.buffer, sys.stderr.buffer, _reporter(verbose or sys.stderr.isatty()))
    target = target_of(remote)
    try:
        outcome = asyncio.run(_execute(wish, inputs, streams, remote, target, instance, skip_cache))
    except GridwrightError as error:
        complain(str(error))
        raise typer.Exit(exit_status(error)) from None
    except (UnusableInput, UnusableOutput) as error:
        complain(str(error))
        raise typer.Exit(EXIT_PATHS) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read our output has heard enough; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EXIT_PATHS) from None
    if outcome.not_produced:
        complain(f"the command (exit code {outcome.exit_code}) did not make {', '.join(outcome.not_produced)}")
    raise typer.Exit(outcome.exit_code or (EXIT_PATHS if outcome.not_produced else 0))


async def _execute(
    wish: Wish, inputs: Path | None, streams: Streams, remote: str, target: str, instance: str, skip_cache: bool
) -> Outcome:
    metadata = request_metadata(str(uuid4()))
    async with GrpcChannel(target) as channel:
        capabilities = await ask_capabilities(channel, remote, instance, metadata)
        runner = Runner(channel, instance, choose_function(capabilities), metadata)
        return await runner.run(wish, inputs, Path.cwd(), streams, skip_cache=skip_cache)


def _reporter(wanted: bool) -> Callable[[str], None]:
    def report(text: str) -> None:
        print(f"gridwright: {text}", file=sys.stderr, flush=True)

    return report if wanted else lambda text: None


def _pairs(option: str, texts: Iterable[str] | None) -> Iterable[tuple[str, str]]:
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint=option)
        yield key, value
