"""Sizes, times and columns as people read them, also where a pipe is the reader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from rich.filesize import decimal


def size(size_bytes: int) -> str:
    """Return a size in words, exact below 1,000 bytes."""
    return decimal(size_bytes)


def count(number: int, noun: str) -> str:
    """Return how many of something there are; *noun* takes an s."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def moment(seconds: float | None) -> str:
    """Return a time since the Unix epoch, in UTC."""
    return "-" if not seconds else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def printable(text: str) -> str:
    """Return *text*, which anybody may have written, without what a terminal would obey."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def duration(seconds: float) -> str:
    """Return a duration in its largest two units."""
    units = (("d", 86_400), ("h", 3_600), ("min", 60))
    for index, (name, length) in enumerate(units):
        if seconds >= length:
            whole, rest = divmod(seconds, length)
            smaller, smaller_length = units[index + 1] if index + 1 < len(units) else ("s", 1)
            part = int(rest // smaller_length)
            return f"{int(whole)} {name}" + (f" {part} {smaller}" if part else "")
    return f"{seconds:.0f} s"


def columns(rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> Iterator[str]:
    """Yield *rows* as lines, their columns below each other; those of *right* end below each other."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
