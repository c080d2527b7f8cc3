"""Envoy's log lines, through our logger."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

import structlog

log = structlog.get_logger("envoy")

#: For ``--log-format``: level, logger, text.
FORMAT = "%l\t%n\t%v"
#: What Envoy says at each of our levels. At its own "info" it tells its life; that is for "debug" here.
LEVELS = {"debug": "info", "info": "warning", "warning": "warning", "error": "error"}

_METHODS = {"trace": "debug", "debug": "debug", "info": "info", "warning": "warning", "error": "error"}
_MAX_LINE_BYTES = 16 * 1024
_KEPT_LINES = 20


class EnvoyLog:
    """Reads what an Envoy writes until it ends, logs it, and keeps the last lines to tell why it ended."""

    def __init__(self) -> None:
        self._last: deque[str] = deque(maxlen=_KEPT_LINES)

    async def follow(self, output: asyncio.StreamReader) -> None:
        """Log the lines of *output* until its end."""
        async for line in _lines(output):
            level, _, rest = line.partition("\t")
            logger, _, text = rest.partition("\t")
            if not text:
                level, logger, text = "warning", "", line
            self._last.append(text)
            getattr(log, _METHODS.get(level, "error"))(text, envoy_logger=logger)

    def __str__(self) -> str:
        return "\n".join(["its last words:", *self._last]) if self._last else "it said nothing"


async def _lines(output: asyncio.StreamReader) -> AsyncIterator[str]:
    """Yield lines; what is too long of one is left out (Envoy quotes whole configurations)."""
    line = b""
    while chunk := await output.read(_MAX_LINE_BYTES):
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            yield (line + part)[:_MAX_LINE_BYTES].decode(errors="replace")
            line = b""
        line = (line + rest)[:_MAX_LINE_BYTES]
    if line:
        yield line.decode(errors="replace")
