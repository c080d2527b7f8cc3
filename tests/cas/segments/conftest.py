"""Fixtures of the tests under failing disks."""

from __future__ import annotations

import pytest

from tests.cas.segments.segment_stores import report_syncs


@pytest.fixture(autouse=True)
def reported_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here may cut the power."""
    report_syncs(monkeypatch)
