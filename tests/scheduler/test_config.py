"""What an operator can say about the scheduler."""

from __future__ import annotations

from typing import Any

import pytest

from gridwright.errors import ConfigurationError
from gridwright.settings import validate_settings
from gridwright_scheduler.config import PropertyKind, SchedulerFile, SchedulerSettings
from gridwright_worker.config import WorkerSettings


def scheduler(**settings: Any) -> SchedulerSettings:
    return validate_settings(SchedulerFile, {"scheduler": settings}, source="the test").scheduler


@pytest.mark.parametrize(
    ("bots", "why"),
    [
        ({"silence_seconds": 10}, "scheduler.bots: silence_seconds .10. must be at least 3 times heartbeat_seconds"),
        ({"heartbeat_seconds": 6}, "scheduler.bots: silence_seconds .15. must be at least 3 times heartbeat_seconds"),
        ({"hold_seconds": 50}, "scheduler.bots.hold_seconds: write at most 45"),
    ],
)
def test_times_that_do_not_fit_together_are_refused(bots: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        scheduler(bots=bots)


def test_times_that_fit_are_accepted() -> None:
    assert scheduler(bots={"silence_seconds": 9, "heartbeat_seconds": 3, "hold_seconds": 45}).bots.hold_seconds == 45


def test_scheduler_and_worker_agree_on_the_timeout_of_an_action_that_asks_for_none() -> None:
    assert WorkerSettings().default_timeout_seconds == scheduler().max_execution_seconds


def test_a_platform_property_is_matched_as_its_kind_says() -> None:
    section = scheduler(platform_properties={"ISA": "exact", "cpu_count": "minimum", "pool": "priority", "x": "ignore"})
    assert section.properties_of(PropertyKind.MINIMUM) == {"cpu_count"}
    with pytest.raises(ConfigurationError, match=r"scheduler.platform_properties.ISA: .*'exact', 'minimum'"):
        scheduler(platform_properties={"ISA": "best"})
