"""What a log line says, and what it must not."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from io import StringIO

import pytest
import structlog

from gridwright.telemetry.logging import LogFormat, configure_logging


@pytest.fixture
def stream() -> Iterator[StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.mark.parametrize("format_", [LogFormat.JSON, LogFormat.TEXT])
def test_a_traceback_shows_neither_blobs_nor_tokens(stream: StringIO, format_: LogFormat) -> None:
    configure_logging("cas", level="info", format_=format_, stream=stream)
    try:
        fail("".join(["some", "body"]))
    except ZeroDivisionError:
        logging.getLogger("probe").exception("rpc_failed")
    assert "ZeroDivisionError" in stream.getvalue()
    assert "somebody" not in stream.getvalue()


def test_a_line_of_json_says_where_it_came_from(stream: StringIO) -> None:
    configure_logging("cas", level="info", format_=LogFormat.JSON, stream=stream)
    try:
        fail("")
    except ZeroDivisionError:
        structlog.get_logger("probe").exception("rpc_failed", method="Read")
    line = json.loads(stream.getvalue())
    assert (line["service"], line["event"], line["method"]) == ("cas", "rpc_failed", "Read")
    assert [frame["name"] for frame in line["exception"][0]["frames"]][-1] == "fail"


def fail(blob: str) -> float:
    secret = [blob]
    return len(secret) / 0
