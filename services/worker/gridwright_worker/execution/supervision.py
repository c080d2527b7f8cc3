"""The worker's side of a supervisor process: start it, ask it, end it."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import cast

from gridwright.errors import Unavailable
from gridwright_worker.execution.supervisor import Answer, Request
from gridwright_worker.execution.threads import in_thread

_PROGRAM = Path(__file__).with_name("supervisor.py")
_START_SECONDS = 10.0
#: Longer than the supervisor itself waits for what it has killed.
_END_SECONDS = 15.0


class SupervisorProcess:
    """A running ``supervisor.py``; make one with :meth:`start`."""

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        #: Where the actions of the slot see the slot's directory.
        self.root = ""
        #: Why that is not the fixed path that was asked for; "" if it is.
        self.reason = ""
        self._process = process
        self._reader = reader
        self._writer = writer

    def __repr__(self) -> str:
        return f"<SupervisorProcess pid={self._process.pid} root={self.root}>"

    @classmethod
    async def start(cls, directory: Path, fixed_path: Path | None, lock: int | None) -> SupervisorProcess:
        """Start a supervisor for the slot in *directory*; it keeps the descriptor *lock* open while it lives.

        Raises:
            Unavailable: it does not come up.
        """
        arguments = [str(directory), *([str(fixed_path)] if fixed_path else [])]
        ours, theirs = socket.socketpair()
        with theirs:
            # Not asyncio's: uvloop forks, which costs more the larger the worker is, and disturbs gRPC; this
            # is a vfork and takes a millisecond.
            process = subprocess.Popen(  # noqa: ASYNC220
                # -I -S: no site-packages and no variables of ours; UTF-8 whatever the locale.
                [sys.executable, "-I", "-S", "-X", "utf8", str(_PROGRAM), *arguments],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                # Out of reach of a Ctrl-C on the worker's terminal: the worker decides when actions end.
                start_new_session=True,
                pass_fds=() if lock is None else (lock,),
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        supervisor = cls(process, reader, writer)
        try:
            async with asyncio.timeout(_START_SECONDS):
                hello = await supervisor._read_line()
        except BaseException:
            await supervisor.end()
            raise
        supervisor.root, supervisor.reason = hello["root"], hello["reason"]
        return supervisor

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, request: Request) -> Answer:
        """Run one command to its end.

        Raises:
            Unavailable: the supervisor died.
        """
        self._writer.write(json.dumps(request).encode() + b"\n")
        return cast(Answer, await self._read_line())

    async def end(self) -> None:
        """Hang up, at which the supervisor kills all that runs under it, and wait for its end."""
        if self._writer.can_write_eof():
            self._writer.write_eof()
        try:
            async with asyncio.timeout(_END_SECONDS):
                while await self._reader.read(4096):
                    pass  # an answer that came too late
        except TimeoutError:
            self._process.kill()
        except ConnectionError:
            pass  # it was killed
        self._writer.close()
        await in_thread(self._process.wait)

    async def _read_line(self) -> dict[str, str]:
        try:
            line = await self._reader.readline()
        except ConnectionError:
            line = b""
        if not line.endswith(b"\n"):
            raise Unavailable("the supervisor of this slot died; the next action starts another")
        return cast(dict[str, str], json.loads(line))
