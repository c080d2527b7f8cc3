"""The suite itself: its rows, the tests that it has for them, and the page that tells of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.outcomes import Outcomes, Verdict
from tests.conformance.page import PAGE, REFUSALS, part, refusals, report, written
from tests.conformance.rows import Group, Row, load_groups, row_of_test
from tests.conformance.table import table

GROUPS = load_groups()
ROWS = {row.id: row for group in GROUPS.values() for row in group.rows.values()}
#: Only a MAY, and what is about these, may be refused.
REFUSABLE = ("SHA256TREE", "GITSHA1", "VSO", "MURMUR3", "RepMaxCDC")


def suite() -> Iterator[tuple[Path, str]]:
    """Yield file and name of each test, without importing it."""
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        if file != Path(__file__):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                    yield file, node.name


def test_every_row_of_a_complete_group_has_a_test() -> None:
    tested = {row_of_test(name) for _, name in suite()}
    wanted = [row for group in GROUPS.values() if group.complete for row in group.rows]
    assert [row for row in wanted if row not in tested] == []


def test_every_test_names_a_row_of_its_module() -> None:
    strangers = [
        f"{file.name}: {name}"
        for file, name in suite()
        if (row := row_of_test(name)) not in ROWS or not file.stem.endswith(f"_{row.partition('-')[0].lower()}")
    ]
    assert strangers == []


def test_rows_have_the_ids_of_their_groups_in_order() -> None:
    for group in GROUPS.values():
        assert list(group.rows) == [f"{group.id}-{number:02}" for number in range(1, len(group.rows) + 1)]


def test_only_what_may_be_refused_is() -> None:
    for row in ROWS.values():
        if row.refused:
            assert row.level == "MAY" or any(name in row.says for name in REFUSABLE), row


def test_the_page_names_the_groups_and_what_is_refused() -> None:
    page = PAGE.read_text()
    assert part(page, REFUSALS) == refusals(GROUPS), "run make conformance ARGS='--write Gridwright'"
    for group in GROUPS.values():
        assert f"| {group.id} " in part(page, "Gridwright"), group.id


def sample(**outcomes: list[str]) -> tuple[dict[str, Group], Outcomes]:
    rows = [Row("XYZ-01", "MUST", "One"), Row("XYZ-02", "MUST", "Two"), Row("XYZ-03", "MAY", "Three", refused="no use")]
    found = Outcomes()
    for name, some in outcomes.items():
        for outcome in some:
            found.note(f"{name}[direct]", outcome)
    return {"XYZ": Group("XYZ", "a subject", True, {row.id: row for row in rows})}, found


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([], Verdict.UNTESTED),
        (["passed", "passed"], Verdict.MET),
        (["passed", "failed"], Verdict.FAILED),
        (["passed", "skipped"], Verdict.MET),
        (["skipped"], Verdict.NOT_TESTABLE),
    ],
)
def test_a_row_is_met_when_nothing_about_it_failed(outcomes: list[str], verdict: Verdict) -> None:
    groups, found = sample(test_xyz_01_a=outcomes)
    assert found.verdict(groups["XYZ"].rows["XYZ-01"]) is verdict


def test_a_row_that_is_refused_as_it_says_is_refused() -> None:
    groups, found = sample(test_xyz_03_a=["passed"])
    assert found.verdict(groups["XYZ"].rows["XYZ-03"]) is Verdict.REFUSED
    groups, found = sample(test_xyz_03_a=["failed"])
    assert found.verdict(groups["XYZ"].rows["XYZ-03"]) is Verdict.FAILED


def test_the_table_counts_rows_by_group() -> None:
    groups, found = sample(test_xyz_01_a=["passed"], test_xyz_02_b=["failed"], test_xyz_03_c=["passed"])
    text = table(groups, found).splitlines()
    assert [cell.strip() for cell in text[2].split("|")[1:-1]] == ["XYZ", "a subject", "3", "1", "1", "1", "0", "0"]
    assert len({len(line) for line in text}) == 1
    assert "| XYZ-02 | MUST | Two |" in report(groups, found, title="ours")


def test_a_block_of_the_page_is_written_between_its_marks() -> None:
    page = "a\n<!-- B: written by make conformance -->\nold\n<!-- end of B -->\nz\n"
    new = written(page, "B", "new")
    assert part(new, "B") == "new"
    assert new.startswith("a\n")
    assert new.endswith("\nz\n")
    with pytest.raises(ValueError, match="there is no place for 'C'"):
        written(page, "C", "new")
