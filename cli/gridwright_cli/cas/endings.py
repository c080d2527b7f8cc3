"""How the commands of `gridwright cas` end when something goes wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from gridwright.errors import GridwrightError
from gridwright_cli.cas.directory import MaintenanceFailed
from gridwright_cli.execute.input_tree import UnusableInput
from gridwright_cli.exits import EXIT_INTERRUPTED, EXIT_PATHS, complain, exit_status

#: Something that was checked is bad, or something that was named is not there.
EXIT_BAD = 1


@contextmanager
def ending_well() -> Iterator[None]:
    """Say in one line what went wrong, and end with the status for it."""
    try:
        yield
        sys.stdout.flush()
    except GridwrightError as error:
        complain(str(error))
        raise typer.Exit(exit_status(error)) from None
    except MaintenanceFailed as error:
        complain(str(error))
        raise typer.Exit(error.status) from None
    except UnusableInput as error:
        complain(str(error))
        raise typer.Exit(EXIT_PATHS) from None
    except BrokenPipeError:
        # Whoever read our output has heard enough (`| head`); Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EXIT_PATHS) from None
    except OSError as error:
        complain(f"{error.filename or 'standard output'}: {error.strerror or error}")
        raise typer.Exit(EXIT_PATHS) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
