"""The supervisor of one slot: a small program that runs commands and lets nothing of them survive.

The worker starts it by exec, as a file, isolated and without site-packages, so it is up in
some 20 ms and imports nothing but the standard library. It has a single thread, lives for
many actions, and speaks JSON lines: one request on stdin, one answer on stdout. It is a
subreaper: whatever an action leaves behind, daemons in sessions of their own as well,
becomes its child, is found and killed before the answer is given. When stdin ends, because
the worker gave the action up or died itself, it kills what runs and exits.

Usage: supervisor.py DIRECTORY [FIXED_PATH]

With FIXED_PATH it tries to enter a mount namespace of its own and to show DIRECTORY there,
so that actions see the same path in every slot. The first line that it writes says where
DIRECTORY is seen, and why not at FIXED_PATH: {"root": …, "reason": …}.
"""

import ctypes
import errno
import json
import os
import select
import signal
import sys
import time
from typing import BinaryIO, TypedDict

_PR_SET_CHILD_SUBREAPER = 36
_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000

#: How long the kernel may take to end what was sent SIGKILL, in seconds; longer means a device hangs.
_KILL_SECONDS = 10.0
#: Exit codes of a command that could not be started, as shells have them.
_CANNOT_EXECUTE, _NOT_FOUND = 126, 127
#: What a command that cannot be started is guilty of itself; anything else is a fault of the machine.
_START_EXIT_CODES = {
    errno.ENOENT: _NOT_FOUND,
    errno.ENOTDIR: _NOT_FOUND,
    errno.EACCES: _CANNOT_EXECUTE,
    errno.EPERM: _CANNOT_EXECUTE,
    errno.ENOEXEC: _CANNOT_EXECUTE,
    errno.EISDIR: _CANNOT_EXECUTE,
    errno.E2BIG: _CANNOT_EXECUTE,
    errno.ELOOP: _CANNOT_EXECUTE,
    errno.ENAMETOOLONG: _CANNOT_EXECUTE,
}
#: What a command finds at its default: Python ignores some, and whoever started the worker may have (nohup does).
_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


class Request(TypedDict):
    """One command to run; paths are absolute, as the supervisor sees them."""

    arguments: list[str]
    environment: dict[str, str]
    working_directory: str
    stdout: str
    stderr: str
    timeout_seconds: float
    #: Between SIGTERM and SIGKILL, after the timeout.
    grace_seconds: float


class Answer(TypedDict, total=False):
    """What came of it. *error* is set, and nothing else, if the machine failed and not the command."""

    #: 128 plus the signal's number for a process that a signal ended.
    exit_code: int
    timed_out: bool
    wall_seconds: float
    #: Of all processes of the action that were waited for.
    user_seconds: float
    system_seconds: float
    max_resident_kib: int
    error: str


class _Abandoned(Exception):
    """The worker has closed the pipe."""


class _Usage:
    """Sums up the resources of the processes that are reaped."""

    def __init__(self) -> None:
        self.user_seconds = 0.0
        self.system_seconds = 0.0
        self.max_resident_kib = 0

    def wait(self, pid: int, options: int) -> tuple[int, int]:
        """Reap a process; return its pid (0: none has ended) and its wait status."""
        pid, status, usage = os.wait4(pid, options)
        if pid:
            self.user_seconds += usage.ru_utime
            self.system_seconds += usage.ru_stime
            self.max_resident_kib = max(self.max_resident_kib, usage.ru_maxrss)
        return pid, status


def main() -> None:
    directory, *rest = sys.argv[1:]
    root, reason = _show_at(directory, rest[0]) if rest else (directory, "")
    _become_subreaper()
    _keep_descriptors()
    os.umask(0o022)
    # Waited for with sigtimedwait; commands start with an empty mask.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    with open(0, "rb", closefd=False) as requests, open(1, "wb", closefd=False) as answers:
        _write(answers, {"root": root, "reason": reason})
        for line in requests:
            try:
                _write(answers, _run(json.loads(line)))
            except (_Abandoned, BrokenPipeError):
                return


def _write(answers: BinaryIO, answer: object) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()


def _run(request: Request) -> Answer:
    usage = _Usage()
    started = time.monotonic()
    try:
        pid = _start(request)
    except _CannotStart as failure:
        _explain(request, str(failure))
        return {"exit_code": failure.exit_code, "timed_out": False, "wall_seconds": time.monotonic() - started}
    except OSError as failure:
        return {"error": f"cannot start a process: {failure}"}
    timed_out = False
    try:
        if not _wait(pid, request["timeout_seconds"]):
            timed_out = True
            _signal_all(signal.SIGTERM)
            _wait(pid, request["grace_seconds"])
    finally:
        status = _end_all(usage, pid)
    if status is None:
        return {"error": "processes of the action do not end, not even by SIGKILL"}
    code = os.waitstatus_to_exitcode(status)
    return {
        "exit_code": code if code >= 0 else 128 - code,
        "timed_out": timed_out,
        "wall_seconds": time.monotonic() - started,
        "user_seconds": usage.user_seconds,
        "system_seconds": usage.system_seconds,
        "max_resident_kib": usage.max_resident_kib,
    }


class _CannotStart(Exception):
    def __init__(self, exit_code: int, why: str) -> None:
        super().__init__(why)
        self.exit_code = exit_code


def _start(request: Request) -> int:
    """Start the command as the leader of a session of its own; return its pid."""
    program, environment = request["arguments"][0], request["environment"]
    # posix_spawn cannot change directory, but this process needs none of its own.
    os.chdir(request["working_directory"].encode())
    path = program if "/" in program else _search(program, environment.get("PATH", ""))
    files = [os.open("/dev/null", os.O_RDONLY), _create(request["stdout"]), _create(request["stderr"])]
    try:
        # All descriptors of this process are close-on-exec, but for those that are put in place here.
        return os.posix_spawn(
            path.encode(),
            [argument.encode() for argument in request["arguments"]],
            {name.encode(): value.encode() for name, value in environment.items()},
            file_actions=[(os.POSIX_SPAWN_DUP2, file, target) for target, file in enumerate(files)],
            setsid=True,
            setsigmask=[],
            setsigdef=_SIGNALS,
        )
    except OSError as failure:
        if exit_code := _START_EXIT_CODES.get(failure.errno or 0):
            hint = ""
            if exit_code == _NOT_FOUND and os.path.exists(path):
                hint = " (the file is there, so the interpreter that it names is not)"
            raise _CannotStart(exit_code, f"cannot run {program!r}: {os.strerror(failure.errno or 0)}{hint}") from None
        raise
    finally:
        for file in files:
            os.close(file)


def _create(path: str) -> int:
    return os.open(path.encode(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)


def _search(program: str, search_path: str) -> str:
    """Return the first file of this name in *search_path* that can be executed."""
    refused = None
    for directory in search_path.split(":"):
        path = os.path.join(directory or ".", program)
        if os.path.isfile(path.encode()):
            if os.access(path.encode(), os.X_OK):
                return path
            refused = refused or path
    if refused:
        raise _CannotStart(_CANNOT_EXECUTE, f"cannot run {program!r}: {refused} is not executable")
    raise _CannotStart(_NOT_FOUND, f"cannot run {program!r}: no such program in PATH={search_path}")


def _explain(request: Request, why: str) -> None:
    """Leave the reason where the user looks for it: on the command's standard error."""
    os.close(_create(request["stdout"]))
    file = _create(request["stderr"])
    os.write(file, f"gridwright: {why}\n".encode(errors="replace"))
    os.close(file)


def _wait(pid: int, seconds: float) -> bool:
    """Wait until *pid* has ended, without reaping it; return False if it has not in time.

    Raises:
        _Abandoned: the worker has closed the pipe meanwhile.
    """
    deadline = time.monotonic() + seconds
    process = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        # No request comes before the last one is answered, so what becomes readable is the end.
        poll.register(0, select.POLLIN)
        while True:
            # Poll counts in int32 milliseconds: longer timeouts take several turns.
            left_ms = min(max(0.0, deadline - time.monotonic()) * 1000, 1e9)
            ready = dict(poll.poll(left_ms))
            if process in ready:
                return True
            if 0 in ready:
                raise _Abandoned
            if time.monotonic() >= deadline:
                return False
    finally:
        os.close(process)


def _end_all(usage: _Usage, main: int) -> int | None:
    """Kill and reap all descendants; return the wait status of *main*, None if one of them does not end."""
    main_status: int | None = None
    deadline = time.monotonic() + _KILL_SECONDS
    killed = False
    while time.monotonic() < deadline:
        try:
            pid, status = usage.wait(-1, os.WNOHANG)
        except ChildProcessError:
            return main_status
        if pid == main:
            main_status = status
        elif pid == 0:
            if killed:
                signal.sigtimedwait({signal.SIGCHLD}, 0.05)
            # Again and again: a tree that forks while it is being walked is caught by the next walk.
            _signal_all(signal.SIGKILL)
            killed = True
    return None


def _signal_all(number: int) -> None:
    for pid in _descendants():
        try:  # noqa: SIM105  # importing contextlib would slow the start
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def _descendants() -> list[int]:
    found: list[int] = []
    parents = [os.getpid()]
    while parents:
        children = _children(parents.pop())
        found += children
        parents += children
    return found


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                children += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        pass  # it has ended; its children are ours now, and the next walk finds them
    return children


def _become_subreaper() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot become a subreaper")


def _keep_descriptors() -> None:
    """Close for actions what the worker has left open for this process: the lock of its directory."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and os.path.exists(f"/proc/self/fd/{name}"):
            os.set_inheritable(int(name), False)


def _show_at(directory: str, fixed: str) -> tuple[str, str]:
    """Show *directory* at *fixed*, to this process and its children; return where it is seen, and why not there."""
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int, what: str) -> None:
        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}")

    try:
        check(libc.unshare(_CLONE_NEWNS), "unshare a mount namespace")
        # Without this, where the host shares its mounts the bind mount would appear there as well.
        check(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "make mounts private")
        check(libc.mount(directory.encode(), fixed.encode(), None, _MS_BIND, None), f"bind mount on {fixed}")
    except OSError as failure:
        return directory, str(failure.strerror)
    return fixed, ""


if __name__ == "__main__":
    main()
