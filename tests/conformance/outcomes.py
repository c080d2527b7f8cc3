"""What a run of the suite shows of each row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from enum import StrEnum

import pytest

from tests.conformance.rows import Group, Row, row_of_test


class Verdict(StrEnum):
    """How an endpoint stands to one row."""

    MET = "met"
    REFUSED = "refused"
    FAILED = "failed"
    #: Every test of it was skipped: it needs what the endpoint, or our way to it, does not have.
    NOT_TESTABLE = "not testable here"
    #: It has no test yet.
    UNTESTED = "untested"


class Outcomes:
    """A plugin of pytest that gathers the outcomes of tests by the rows that they name.

    A row is met when all of its tests passed, on every way to the endpoint; what some of them
    could not test here does not count.
    """

    def __init__(self) -> None:
        self._outcomes: dict[str, list[str]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # Set-up and tear-down count only when they go wrong, or skip.
        if report.when == "call" or not report.passed:
            self.note(report.nodeid.rpartition("::")[2], report.outcome)

    def note(self, test: str, outcome: str) -> None:
        """Take note that *test* "passed", "failed" or was "skipped"."""
        if row := row_of_test(test):
            self._outcomes[row].append(outcome)

    def verdict(self, row: Row) -> Verdict:
        """Return how the endpoint stands to *row*."""
        outcomes = self._outcomes.get(row.id, [])
        if "failed" in outcomes:
            return Verdict.FAILED
        if row.refused and "passed" in outcomes:
            return Verdict.REFUSED
        if "passed" in outcomes:
            return Verdict.MET
        return Verdict.NOT_TESTABLE if outcomes else Verdict.UNTESTED

    def verdicts(self, group: Group) -> Mapping[str, Verdict]:
        """Return how the endpoint stands to each row of *group*."""
        return {row.id: self.verdict(row) for row in group.rows.values()}

    def rows(self, groups: Mapping[str, Group], verdict: Verdict) -> Sequence[Row]:
        """Return the rows that have *verdict*."""
        return [row for group in groups.values() for row in group.rows.values() if self.verdict(row) is verdict]
