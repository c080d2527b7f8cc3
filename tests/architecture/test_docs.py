"""What the documents name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")])
SOURCES = [
    path.relative_to(ROOT).as_posix()
    for folder in ("shared", "services", "cli", "tests", "bench", "scripts")
    for path in (ROOT / folder).rglob("*.py")
]


def braces(name: str) -> list[str]:
    """Return the names that ``a/{b,c}.py`` stands for, as a shell would."""
    group = re.search(r"{([^}]*)}", name)
    if group is None:
        return [name]
    return [expanded for one in group[1].split(",") for expanded in braces(name.replace(group[0], one, 1))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_source_file_that_is_named_exists(page: Path) -> None:
    names = [name for text in re.findall(r"`([\w/{},.-]+\.py)`", page.read_text()) for name in braces(text)]
    assert [name for name in names if not any(f"/{source}".endswith(f"/{name}") for source in SOURCES)] == []
