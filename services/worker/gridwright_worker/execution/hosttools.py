"""The ``hosttools`` runner: a plain process with the tools of the host."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import structlog

from gridwright.errors import Unavailable
from gridwright_worker.execution.runner import Ended, Run, Runner
from gridwright_worker.execution.supervision import SupervisorProcess
from gridwright_worker.execution.workspace import Workspace

log = structlog.get_logger(__name__)

#: For a Command that brings no PATH, as recc's does not.
_DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class HostToolsRunner(Runner):
    """Runs commands as plain processes of the worker's user, under the slot's supervisor.

    There is no sandbox: an action sees the host's files and network. Where the host allows
    a private mount namespace, every slot shows its directory at *fixed_path*, so that paths
    that end up in outputs (DW_AT_comp_dir for one) do not differ from slot to slot. The
    supervisor keeps the descriptor *lock* open, so who can lock it knows that nothing runs.
    """

    def __init__(
        self, workspace: Workspace, *, fixed_path: Path | None, kill_grace_seconds: float, lock: int | None = None
    ) -> None:
        self._workspace = workspace
        self._lock = lock
        self._fixed_path = fixed_path
        self._kill_grace_seconds = kill_grace_seconds
        self._supervisor: SupervisorProcess | None = None

    def __repr__(self) -> str:
        return f"<HostToolsRunner {self._workspace.directory} {self._supervisor}>"

    async def open(self) -> str:
        """Start the supervisor; return why actions do not see the fixed path, "" if they do."""
        return (await self._supervised()).reason

    async def run(self, run: Run) -> Ended:
        supervisor = await self._supervised()
        seen = self._workspace.seen_at(supervisor.root)
        try:
            answer = await supervisor.ask(
                {
                    "arguments": list(run.arguments),
                    "environment": {"PATH": _DEFAULT_PATH, "TMPDIR": str(seen.temporary), **run.environment},
                    "working_directory": os.path.join(seen.input_root, run.working_directory),
                    "stdout": str(seen.stdout),
                    "stderr": str(seen.stderr),
                    "timeout_seconds": run.timeout_seconds,
                    "grace_seconds": self._kill_grace_seconds,
                }
            )
        except BaseException:
            # Given up, or broken: only a new supervisor is known to have nothing running under it.
            await self.close()
            raise
        if error := answer.get("error"):
            log.warning("slot_failed", directory=str(self._workspace.directory), error=error)
            await self.close()
            raise Unavailable(error)
        return Ended(
            exit_code=answer["exit_code"],
            timed_out=answer["timed_out"],
            wall_seconds=answer["wall_seconds"],
            cpu_seconds=answer.get("user_seconds", 0.0) + answer.get("system_seconds", 0.0),
            max_resident_kib=answer.get("max_resident_kib", 0),
        )

    async def close(self) -> None:
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            await supervisor.end()

    async def _supervised(self) -> SupervisorProcess:
        if self._supervisor is None:
            self._supervisor = await SupervisorProcess.start(self._workspace.directory, self._fixed_path, self._lock)
        return self._supervisor
