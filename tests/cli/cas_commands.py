"""`gridwright cas` as a user runs it, and a CAS to run it against."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

from typer.testing import CliRunner

from gridwright_cli.app import app

#: Addresses of the service, in its directory.
ENDPOINT = "unix:cas.sock"
ADMIN = "unix:admin.sock"
_SETTINGS = f"""
instances: [{{name: main}}]
cas:
  listen: {ENDPOINT}
  admin: {ADMIN}
  store: {{verify: {{backend: {{segments: {{content_path: store, eviction_policy: {{max_bytes: 256Mb}}}}}}}}}}
"""
_SECONDS = 60


def command_line(*arguments: str | Path) -> list[str]:
    """Return how `gridwright cas` is run."""
    return [sys.executable, "-m", "gridwright_cli", "cas", *map(str, arguments)]


def gridwright_cas(*arguments: str | Path, cwd: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run `gridwright cas` to its end."""
    ended = subprocess.run(
        command_line(*arguments), cwd=cwd, input=stdin, capture_output=True, timeout=_SECONDS, check=False
    )
    return subprocess.CompletedProcess(
        ended.args, ended.returncode, ended.stdout.decode(errors="surrogateescape"), ended.stderr.decode()
    )


def gridwright_cas_here(*arguments: str | Path, cwd: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run `gridwright cas` in this process, in a tenth of the time; not where a blob goes to stdout."""
    with chdir(cwd):
        ended = CliRunner().invoke(app, ["cas", *map(str, arguments)], input=stdin, prog_name="gridwright")
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return subprocess.CompletedProcess(arguments, ended.exit_code, ended.stdout, ended.stderr)


def words(text: str) -> str:
    """Return *text* as one line, without the frame that errors are printed in."""
    return " ".join(text.replace("│", " ").split())


@contextmanager
def cas_service(directory: Path) -> Iterator[None]:
    """Run a CAS in *directory* while the block runs; its blobs are in ``store``."""
    (directory / "grid.yaml").write_text(_SETTINGS)
    process = subprocess.Popen(
        [sys.executable, "-m", "gridwright_cas", "--config", "grid.yaml"],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if '"started"' in line and json.loads(line)["event"] == "started":
                break
        assert process.poll() is None, lines
        yield
    finally:
        process.terminate()
        process.communicate(timeout=_SECONDS)
