"""A root file system with build tools that this machine's own distribution does not have.

It is found in /opt/sid, or where the environment variable says. Commands run with it as their root, in a
mount namespace of their own, so nothing stays mounted when they end; the temporary
directory, this tree and the interpreter are the same inside as outside.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

VARIABLE = "GRIDWRIGHT_CLIENT_TREE"
_USUAL_PLACE = Path("/opt/sid")
#: What tells a tree of clients in the usual place from another one.
_USUAL_PROGRAM = "recc"
REPOSITORY = Path(__file__).resolve().parents[2]

# pivot_root rather than chroot alone: the kernel refuses user namespaces, which sandboxes need, to a process that
# changed its root. Each step is an exec, so the command has the pid that was started.
_ENTER = """
tree=$1 here=$2; shift 2
mount --bind "$tree" "$tree" && mount -t proc proc "$tree/proc" || exit 125
mount --rbind /dev "$tree/dev" && mount --rbind /sys "$tree/sys" || exit 125
while [ "$1" != -- ]; do
  mkdir -p "$tree$1" && mount --rbind "$1" "$tree$1" || exit 125
  shift
done
shift
cd "$tree" && pivot_root . mnt || exit 125
exec chroot . sh -c 'umount -l /mnt; cd "$0" && exec "$@"' "$here" "$@"
"""


class ClientTree:
    """The tree, entered by a prefix to a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entered_at(self, directory: Path) -> list[str]:
        """Return what runs a command in the tree, in *directory*, which must be one that both sides see."""
        shared = dict.fromkeys(["/tmp", str(REPOSITORY), sys.base_prefix, str(Path(sys.executable).parent)])
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "enter"]
        return [*enter, str(self.path), str(directory), *shared, "--"]

    def has(self, program: str) -> bool:
        """Whether *program* is installed there."""
        return (self.path / "usr/bin" / program).exists()

    def run(self, directory: Path, *command: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run *command* in the tree, in *directory*."""
        return subprocess.run(
            [*self.entered_at(directory), *command], capture_output=True, text=True, timeout=seconds, check=False
        )


def find_client_tree(programs: Sequence[str]) -> ClientTree:
    """Return the tree, or skip the test where there is none or it lacks one of *programs*."""
    tree = _present_tree()
    if tree is None:
        pytest.skip(f"set {VARIABLE} to a root file system that has {', '.join(programs)}")
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("entering the tree of clients needs root and unshare")
    if lacking := [program for program in programs if not tree.has(program)]:
        pytest.skip(f"{tree.path} has no {', '.join(lacking)}")
    return tree


def _present_tree() -> ClientTree | None:
    if named := os.environ.get(VARIABLE):
        return ClientTree(Path(named))
    usual = ClientTree(_USUAL_PLACE)
    return usual if usual.has(_USUAL_PROGRAM) else None
