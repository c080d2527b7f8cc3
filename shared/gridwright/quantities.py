"""Numbers with units, as operators write them."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, NonNegativeFloat, NonNegativeInt, PositiveInt

_UNITS = {"": 1, "b": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for suffix, base in (("", 1024), ("b", 1000), ("ib", 1024))
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])\s*")
_DURATION = re.compile(rf"\s*(?:{_DURATION_PART.pattern})+")


def _parse_size(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value)
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"{value!r} is not a size; write a number of bytes, or '64kb', '512MiB', '10Gb'")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _parse_seconds(value: object) -> object:
    if not isinstance(value, str) or value.strip().isdecimal():
        return value
    if not _DURATION.fullmatch(value):
        raise ValueError(f"{value!r} is not a duration; write a number of seconds, or '90s', '1h30m', '7d'")
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(value))


#: A number of bytes, also written "64kb" (thousands), "64KiB" or "64k" (1,024).
ByteSize = Annotated[PositiveInt, BeforeValidator(_parse_size)]
#: Likewise, where 0 means that there is no bound.
ByteBound = Annotated[NonNegativeInt, BeforeValidator(_parse_size)]
#: A number of seconds, also written "90s" or "1h30m", where 0 means that there is no bound.
SecondsBound = Annotated[NonNegativeFloat, BeforeValidator(_parse_seconds)]
