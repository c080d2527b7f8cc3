"""What an operator can say about the worker."""

from __future__ import annotations

import os
from typing import Any

import pytest

from gridwright.errors import ConfigurationError
from gridwright.settings import validate_settings
from gridwright_worker.config import WorkerFile, WorkerSettings


def worker(**settings: Any) -> WorkerSettings:
    return validate_settings(WorkerFile, {"worker": settings}, source="the test").worker


def test_the_defaults_suit_this_machine() -> None:
    settings = worker()
    assert settings.slots == len(os.sched_getaffinity(0))
    assert settings.platform["OSFamily"] == ("linux",)
    assert settings.platform["ISA"]


def test_a_property_has_one_value_or_several() -> None:
    assert worker(platform={"a": "1", "b": ["2", "3"]}).platform == {"a": ("1",), "b": ("2", "3")}


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"slots": 0}, "worker.slots"),
        ({"slots": 1001}, "worker.slots"),
        ({"slotz": 1}, "worker.slotz"),
        ({"platform": {"a": 1}}, "worker.platform.a"),
        ({"runner": "docker"}, "worker.runner"),
        ({"cache_max_bytes": "lots"}, "worker.cache_max_bytes"),
    ],
)
def test_a_bad_setting_is_named_with_its_path(settings: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigurationError, match=path):
        worker(**settings)
