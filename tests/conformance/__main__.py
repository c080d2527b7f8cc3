"""Runs the conformance suite and says how an endpoint stands to each group of rows (`make conformance`)."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.conformance.outcomes import Outcomes, Verdict
from tests.conformance.page import PAGE, REFUSALS, refusals, report, written
from tests.conformance.rows import load_groups


def main() -> int:
    """Run the suite; return 0 if no row failed and every test could be run."""
    parser = argparse.ArgumentParser(
        prog="make conformance ARGS=…",
        description="Run the conformance suite against a grid of our own, or against any endpoint. Other options "
        "are pytest's, such as -k bsw.",
    )
    parser.add_argument("--endpoint", metavar="HOST:PORT", help="the endpoint; by default a grid of our own, both ways")
    parser.add_argument("--instance", metavar="NAME", default="", help="the instance name to send to it")
    parser.add_argument(
        "--write",
        metavar="NAME",
        help="write the table into docs/conformance.md, as what NAME ('Gridwright', 'BuildGrid 0.4.4') has shown",
    )
    arguments, others = parser.parse_known_args()
    endpoint = [f"--endpoint={arguments.endpoint}", f"--instance={arguments.instance}"] if arguments.endpoint else []
    groups, outcomes = load_groups(), Outcomes()
    directory = Path(__file__).parent
    # What the suite says of itself, and of the page that is about to be written, is for the other tests.
    of_the_suite = f"--ignore={directory / 'test_rows.py'}"
    status = pytest.main([str(directory), of_the_suite, "-q", "--no-header", *endpoint, *others], plugins=[outcomes])
    title = f"{arguments.write or arguments.endpoint or 'Gridwright'}, {datetime.now(UTC):%Y-%m-%d}:"
    text = report(groups, outcomes, title=title)
    print(f"\n{text}")
    if arguments.write:
        block = arguments.write.partition(" ")[0]
        page = written(PAGE.read_text(), block, text)
        PAGE.write_text(written(page, REFUSALS, refusals(groups)))
    return 1 if outcomes.rows(groups, Verdict.FAILED) else int(status)


if __name__ == "__main__":
    sys.exit(main())
