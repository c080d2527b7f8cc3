"""The page docs/conformance.md: what of it is written by a run of the suite, and by `rows.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.conformance.outcomes import Outcomes, Verdict
from tests.conformance.rows import Group
from tests.conformance.table import table

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
REFUSALS = "refusals"


def refusals(groups: Mapping[str, Group]) -> str:
    """Return the rows that are refused, or met in part, and why."""
    lines = ["| row | level | what it asks for | why not |", "|---|---|---|---|"]
    for group in groups.values():
        for row in group.rows.values():
            if row.refused:
                lines.append(f"| {row.id} | {row.level} | {row.says} | {row.refused} |")
            if row.lacks:
                lines.append(f"| {row.id} | {row.level} | {row.says} | Met, but for this: {row.lacks} |")
    return "\n".join(lines)


def report(groups: Mapping[str, Group], outcomes: Outcomes, *, title: str) -> str:
    """Return what a run has shown: the table, and the rows that failed."""
    parts = [title, table(groups, outcomes)]
    if failed := outcomes.rows(groups, Verdict.FAILED):
        rows = ["| failed | level | what it asks for |", "|---|---|---|"]
        parts.append("\n".join([*rows, *(f"| {row.id} | {row.level} | {row.says} |" for row in failed)]))
    return "\n\n".join(parts)


def written(page: str, block: str, text: str) -> str:
    """Return *page* with *text* between the two marks of *block*.

    Raises:
        ValueError: the page has no such marks.
    """
    begin, end = _marks(block)
    head, found, rest = page.partition(begin)
    _, also_found, tail = rest.partition(end)
    if not found or not also_found:
        raise ValueError(f"there is no place for {block!r}: write the lines {begin} and {end} into the page")
    return f"{head}{begin}\n\n{text}\n\n{end}{tail}"


def part(page: str, block: str) -> str:
    """Return what stands between the marks of *block*."""
    begin, end = _marks(block)
    return page.partition(begin)[2].partition(end)[0].strip()


def _marks(block: str) -> tuple[str, str]:
    return f"<!-- {block}: written by make conformance -->", f"<!-- end of {block} -->"
