"""Moments, as people write them."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import TypeAdapter, ValidationError

from gridwright.quantities import SecondsBound

_DURATION = TypeAdapter(SecondsBound)


def moment_of(text: str, *, option: str) -> Timestamp:
    """Return the moment that *text* says: a date and time (UTC unless it says otherwise), or how long ago ("2h").

    Raises:
        typer.BadParameter: it says none.
    """
    moment = Timestamp()
    moment.FromMicroseconds(round(_unix_seconds(text, option) * 1e6))
    return moment


def _unix_seconds(text: str, option: str) -> float:
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    try:
        return time.time() - _DURATION.validate_python(text)
    except ValidationError:
        raise typer.BadParameter(
            f"{text!r} is no moment; write 2026-11-20T03:00:00Z, or how long ago: 90m, 2h, 7d", param_hint=option
        ) from None
