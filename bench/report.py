"""Tables of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def print_table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print *rows*, whose keys are the columns, the first row's all of them; texts align left, figures right."""
    columns = list(rows[0])
    widths = {name: max(len(name), *(len(row.get(name, "")) for row in rows)) for name in columns}
    print(f"\n{title}")
    for row in [{name: name for name in columns}, {name: "-" * widths[name] for name in columns}, *rows]:
        first, *others = columns
        print("  ".join([row[first].ljust(widths[first]), *(row.get(name, "").rjust(widths[name]) for name in others)]))


def print_memory(peaks: Mapping[str, int]) -> None:
    """Print the largest anonymous memory of each process."""
    if peaks:
        cells = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in sorted(peaks.items()))
        print(f"anonymous memory, at most: {cells}")
