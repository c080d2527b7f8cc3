"""What an operator can say about the scheduler."""

from __future__ import annotations

from typing import Any

import pytest

from gridwright.errors import ConfigurationError
from gridwright.settings import validate_settings
from gridwright_scheduler.config import SchedulerFile, SchedulerSettings
from gridwright_scheduler.queue.property_rules import UnknownProperties
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


def test_patience_is_never_negative() -> None:
    assert scheduler(abandon_after_seconds=0).abandon_after_seconds == 0
    with pytest.raises(ConfigurationError, match=r"scheduler\.abandon_after_seconds"):
        scheduler(abandon_after_seconds=-1)


def test_times_that_fit_are_accepted() -> None:
    assert scheduler(bots={"silence_seconds": 9, "heartbeat_seconds": 3, "hold_seconds": 45}).bots.hold_seconds == 45


def test_scheduler_and_worker_agree_on_the_timeout_of_an_action_that_asks_for_none() -> None:
    assert WorkerSettings().default_timeout_seconds == scheduler().max_execution_seconds


def test_a_platform_property_is_matched_as_its_kind_says() -> None:
    section = scheduler(platform_properties={"ISA": "exact", "cpu_count": "minimum", "pool": "priority", "x": "ignore"})
    assert section.property_rules.wanted("cpu_count", "4") == ("cpu_count", 4)
    assert section.property_rules.wanted("pool", "4") == ("pool", None)
    with pytest.raises(ConfigurationError, match=r"scheduler.platform_properties.ISA: .*'exact', 'minimum'"):
        scheduler(platform_properties={"ISA": "best"})


def test_properties_that_nothing_names_are_refused_once_some_are_named() -> None:
    def unknown(**settings: Any) -> UnknownProperties:
        return scheduler(**settings).property_rules.unknown

    assert unknown() is UnknownProperties.EXACT
    assert unknown(platform_properties={"ISA": "exact"}) is UnknownProperties.REFUSE
    assert unknown(platform_properties={"ISA": "exact"}, unknown_properties="ignore") is UnknownProperties.IGNORE


@pytest.mark.parametrize(
    ("defaults", "why"),
    [
        ({"nowhere": {"ISA": "x86-64"}}, r"platform_defaults.nowhere: there is no such instance"),
        ({"main": {"zzz": "1"}}, r"platform_defaults.main.zzz: the platform property 'zzz' is unknown"),
        ({"main": {"cpu_count": "many"}}, r"platform_defaults.main.cpu_count: .* is a number here"),
    ],
)
def test_defaults_that_no_action_could_have_are_refused(defaults: dict[str, Any], why: str) -> None:
    kinds = {"ISA": "exact", "cpu_count": "minimum"}
    scheduler(platform_properties=kinds, platform_defaults={"main": {"ISA": "x86-64", "cpu_count": "2"}})
    with pytest.raises(ConfigurationError, match=why):
        scheduler(platform_properties=kinds, platform_defaults=defaults)


@pytest.mark.parametrize("url", ["sqlite:///scheduler.db", "postgresql://pooler/grid"])
def test_notices_come_from_the_same_kind_of_database(url: str) -> None:
    notify_url = "postgresql://server/grid"
    if url.startswith("sqlite"):
        with pytest.raises(ConfigurationError, match="notify_url: leave it out"):
            scheduler(database={"url": url, "notify_url": notify_url})
    else:
        assert scheduler(database={"url": url, "notify_url": notify_url}).state.notify_url == notify_url


def test_a_database_has_a_short_form_and_a_long_one() -> None:
    assert scheduler(database_url="sqlite:///a.db").state.url == "sqlite:///a.db"
    assert scheduler(database={"url": "sqlite:///a.db"}).state.url == "sqlite:///a.db"
    both = scheduler(database_url="postgresql://x/y", database={"pool_size": 7}).state
    assert (both.url, both.pool_size, both.migrates_at_start) == ("postgresql://x/y", 7, False)
    assert scheduler().state.migrates_at_start
    assert scheduler(database={"url": "postgresql://x/y", "migrate": "auto"}).state.migrates_at_start
    with pytest.raises(ConfigurationError, match="not both"):
        scheduler(database_url="sqlite:///a.db", database={"url": "sqlite:///b.db"})
    for url in ("sqlite:///", "sqlite://x", "mysql://x:secret@y/z", ""):
        with pytest.raises(ConfigurationError, match=r"database_url: write sqlite:///PATH") as refused:
            scheduler(database_url=url)
        assert "secret" not in str(refused.value)
    with pytest.raises(ConfigurationError, match="not both"):
        scheduler(database={"password_env": "X", "password_file": "x"})
