"""The outcome of a run as a table, group by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.conformance.outcomes import Outcomes, Verdict
from tests.conformance.rows import Group

_HEADINGS = ("group", "subject", "rows", *Verdict)
_RIGHT_FROM = 2


def table(groups: Mapping[str, Group], outcomes: Outcomes) -> str:
    """Return the table in Markdown, which is as readable in a terminal."""
    lines = [_HEADINGS, *(_line(group, outcomes) for group in groups.values())]
    lines.append(
        ("all", "", *(str(sum(int(line[column]) for line in lines[1:])) for column in range(2, len(lines[0]))))
    )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rule = ["-" * width if column < _RIGHT_FROM else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join(_padded(line, widths) for line in (lines[0], rule, *lines[1:]))


def _line(group: Group, outcomes: Outcomes) -> tuple[str, ...]:
    verdicts = list(outcomes.verdicts(group).values())
    return (group.id, group.subject, str(len(verdicts)), *(str(verdicts.count(verdict)) for verdict in Verdict))


def _padded(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        text.ljust(width) if column < _RIGHT_FROM else text.rjust(width)
        for column, (text, width) in enumerate(zip(line, widths, strict=True))
    ]
    return f"| {' | '.join(cells)} |"
