"""A child: a CAS that listens together with others, and lives no longer than its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import structlog

from gridwright.wire.process import Process, serve
from gridwright_cas.config import CasFile
from gridwright_cas.processes.ticket import Ticket

#: The first argument of a child; the parent's pid and the descriptor of the socket to it follow.
CHILD_OPTION = "--one-of-several"
_PR_SET_PDEATHSIG = 1

ChildApplication = Callable[[CasFile, Process, socket.socket], AbstractAsyncContextManager[None]]


def run_child(arguments: Sequence[str], application: ChildApplication) -> None:
    """Be the child that *arguments* and the ticket on standard input describe, until SIGTERM."""
    parent, connection = int(arguments[0]), socket.socket(fileno=int(arguments[1]))
    _die_with(parent)
    ticket = Ticket.read(sys.stdin.fileno())
    structlog.contextvars.bind_contextvars(process=ticket.number)
    serve("cas", ticket.settings, lambda settings, process: application(settings, process, connection))


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the main thread of *parent*, which started it, is gone.

    As when a CAS by itself is killed: its calls break off, and what was acknowledged is on the disk. A drain would
    keep the port from the parent that is started next.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(f"the process {parent} that has started this CAS is gone")
