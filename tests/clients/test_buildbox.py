"""BuildBox's clients, from a tree of clients."""

import json
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

from tests.clients.client_tree import ClientTree, find_client_tree
from tests.journeys.grid import Grid

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(300),
    pytest.mark.may_skip("needs a tree of clients (/opt/sid, or GRIDWRIGHT_CLIENT_TREE)"),
]


class Recc:
    """recc in a project of its own."""

    def __init__(self, tree: ClientTree, grid: Grid, directory: Path) -> None:
        self._tree = tree
        self._directory = directory
        self._metrics = directory / "metrics"
        self._environment = {
            "RECC_SERVER": f"http://{grid.endpoint}",
            "RECC_INSTANCE": "main",
            "RECC_PROJECT_ROOT": str(directory),
            "RECC_ENABLE_METRICS": "1",
            "RECC_METRICS_FILE": str(self._metrics),
        }

    def run(self, *command: str, **environment: str) -> tuple[int, str]:
        """Run ``recc COMMAND``; return its status and the metrics of this run."""
        self._metrics.unlink(missing_ok=True)
        variables = [f"{name}={value}" for name, value in {**self._environment, **environment}.items()]
        ended = self._tree.run(self._directory, "env", *variables, "recc", *command)
        return ended.returncode, self._metrics.read_text() if self._metrics.exists() else ended.stderr


@pytest.fixture
def recc(tree_grid: Grid, directory: Path) -> Recc:
    return Recc(find_client_tree(["recc", "gcc"]), tree_grid, directory)


def test_recc_compiles_the_bytes_that_a_local_compiler_does_and_then_finds_them(
    tree: ClientTree, recc: Recc, directory: Path
) -> None:
    (directory / "h.h").write_text(f"#define X 1 /* {uuid4()} */\n")
    (directory / "a.c").write_text('#include "h.h"\nint v(void) { return X; }\n')
    assert tree.run(directory, "gcc", "-O2", "-c", "a.c", "-o", "local.o").returncode == 0
    for counter in ("execute_remote", "action_cache_hit:1"):
        status, metrics = recc.run("gcc", "-O2", "-c", "a.c", "-o", "a.o")
        assert status == 0, metrics
        assert counter in metrics
        assert (directory / "a.o").read_bytes() == (directory / "local.o").read_bytes()
        (directory / "a.o").unlink()


def test_recc_links_and_passes_a_compilers_error_on(tree: ClientTree, recc: Recc, directory: Path) -> None:
    (directory / "bad.c").write_text("int main(\n")
    status, _ = recc.run("gcc", "-c", "bad.c", "-o", "bad.o")
    assert status != 0
    (directory / "m.c").write_text(f"int main(void) {{ return 0; }} /* {uuid4()} */\n")
    assert recc.run("gcc", "-c", "m.c", "-o", "m.o")[0] == 0
    assert recc.run("gcc", "m.o", "-o", "program", RECC_LINK="1")[0] == 0
    assert tree.run(directory, "./program").returncode == 0


class Trexe:
    """trexe against one grid."""

    def __init__(self, tree: ClientTree, grid: Grid, directory: Path) -> None:
        self._tree = tree
        self._directory = directory
        self._remote = [f"--remote=http://{grid.endpoint}", "--instance=main"]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._tree.run(self._directory, "trexe", *self._remote, *arguments)


@pytest.fixture
def trexe(tree_grid: Grid, directory: Path) -> Trexe:
    return Trexe(find_client_tree(["trexe"]), tree_grid, directory)


def test_trexe_runs_a_command_and_then_finds_its_result(trexe: Trexe, directory: Path) -> None:
    mark = uuid4()
    (directory / "in").mkdir()
    (directory / "in" / "x").write_text(f"{mark}\n")
    script = "cat in/x > o.txt; echo $A >> o.txt; mkdir od; echo q > od/q; echo SO; echo SE >&2"
    words = ["--d=out", "--input-path=in:in", "--output-path=o.txt", "--output-path=od", "--env=A=b"]
    for cached in (False, True):
        ended = trexe.run(*words, "--result-metadata-file=m.json", "--", "/bin/sh", "-c", script)
        assert ended.returncode == 0, ended.stderr
        assert "SO" in ended.stdout
        assert "SE" in ended.stderr
        assert (directory / "out" / "o.txt").read_text() == f"{mark}\nb\n"
        assert (directory / "out" / "od" / "q").read_text() == "q\n"
        assert json.loads((directory / "m.json").read_text())["actionResultMetadata"]["cachedResult"] is cached
        (directory / "out" / "o.txt").unlink()
        (directory / "out" / "od" / "q").unlink()


def test_trexe_passes_exit_codes_timeouts_and_cancellations_on(trexe: Trexe) -> None:
    assert trexe.run("--", "/bin/sh", "-c", f"exit 7 # {uuid4()}").returncode == 7
    assert trexe.run("--exec-timeout=1", "--", "/bin/sh", "-c", f"sleep 30 # {uuid4()}").returncode != 0
    begun = trexe.run("--no-wait", "--", "/bin/sh", "-c", f"sleep 30 # {uuid4()}")
    assert begun.returncode == 0, begun.stderr
    cancelled = trexe.run(f"--operation={begun.stdout.strip()}", "--cancel")
    assert cancelled.returncode == 0, cancelled.stderr
