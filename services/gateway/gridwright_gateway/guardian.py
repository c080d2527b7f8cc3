"""Holds a program on a line: the program ends when the process that asked for it does.

Run as a script of its own, in isolation: ``python -I -S guardian.py PROGRAM ARGUMENT…``, with
a pipe as standard input whose other end only the asking process holds. However that process
ends, by SIGKILL too, the pipe closes, and the program is told to go. Should the guardian
itself be killed, the kernel kills the program: here the death signal can be relied on, as this
process has one thread only.
"""

import ctypes
import os
import select
import signal
import sys

_PR_SET_PDEATHSIG = 1
#: How long the program may take to go when told to; then it is killed.
_GRACE_SECONDS = 3.0
_EXIT_NOT_STARTED = 127


def main(command: list[str]) -> int:
    """Run *command* until it ends or standard input does; return its exit status, as a shell would."""
    children, children_write = os.pipe()
    os.set_blocking(children_write, False)
    signal.set_wakeup_fd(children_write)
    # Wakes the select below; a SIGCHLD without a handler would not.
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    child = _start(command)
    select.select([sys.stdin.fileno(), children], [], [])
    if (status := _ended(child)) is None:
        os.kill(child, signal.SIGTERM)
        select.select([children], [], [], _GRACE_SECONDS)
        if (status := _ended(child)) is None:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _start(command: list[str]) -> int:
    libc = ctypes.CDLL(None)
    nothing = os.open(os.devnull, os.O_RDONLY)
    guardian = os.getpid()
    child = os.fork()
    if child:
        return child
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guardian:  # it was killed before the call above
        os._exit(_EXIT_NOT_STARTED)
    os.dup2(nothing, sys.stdin.fileno())
    try:
        os.execv(command[0], command)
    except OSError as error:
        os.write(sys.stderr.fileno(), f"cannot start {command[0]}: {error.strerror}\n".encode())
        os._exit(_EXIT_NOT_STARTED)


def _ended(child: int) -> int | None:
    pid, status = os.waitpid(child, os.WNOHANG)
    return status if pid else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
