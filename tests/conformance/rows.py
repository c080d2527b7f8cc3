"""The rows of the conformance suite, as `rows.toml` has them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROWS_FILE = Path(__file__).with_name("rows.toml")
_TEST_NAME = re.compile(r"test_([a-z]+)_(\d\d)(?:_|$)")


@dataclass(frozen=True)
class Row:
    """One thing that a server does."""

    id: str
    level: str
    says: str
    #: Why it is not met on purpose.
    refused: str = ""
    #: What of it is not offered yet, while the rest is met.
    lacks: str = ""


@dataclass(frozen=True)
class Group:
    """The rows about one RPC or subject."""

    id: str
    subject: str
    #: Whether each row has a test.
    complete: bool
    rows: Mapping[str, Row]


def load_groups(file: Path = ROWS_FILE) -> Mapping[str, Group]:
    """Return the groups of rows, in the order of the file."""
    groups = {}
    for name, table in tomllib.loads(file.read_text()).items():
        rows = {identity: Row(identity, **fields) for identity, fields in table["rows"].items()}
        groups[name] = Group(name, table["subject"], table["complete"], rows)
    return groups


def row_of_test(name: str) -> str | None:
    """Return the id of the row that the test function *name* is about, or None: about none."""
    match = _TEST_NAME.match(name)
    return f"{match[1].upper()}-{match[2]}" if match else None
