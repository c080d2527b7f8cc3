"""The settings that `gridwright up` writes are those that the services read."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from gridwright.settings import GridSettings, load_settings
from gridwright_cli.up.grid_file import grid_settings, grid_yaml
from gridwright_cli.up.options import UpOptions
from gridwright_cli.up.services import SERVICES, STOP_ORDER, Service

OPTIONS = UpOptions(Path("data"), port=50100, console_port=8100, slots=3, instance="team/a")


def test_every_service_is_started_and_stopped() -> None:
    assert set(SERVICES) == set(STOP_ORDER)
    assert len(SERVICES) == len(STOP_ORDER) == 5


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_the_service_reads_what_is_written(service: Service, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(grid_yaml(OPTIONS))
    module = import_module(f"{service.module}.config")
    [model] = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, GridSettings) and service.name in each.model_fields
    ]
    settings = load_settings(model, path=tmp_path / "grid.yaml", environ={})
    assert [instance.name for instance in settings.instances] == ["team/a"]


def test_a_service_has_time_to_drain_before_it_is_killed() -> None:
    settings = grid_settings(OPTIONS)
    for service in SERVICES:
        assert settings[service.name].get("drain_seconds", 9) < service.stop_seconds


def test_slots_are_left_to_the_worker_unless_asked_for() -> None:
    assert grid_settings(OPTIONS)["worker"]["slots"] == 3
    assert "slots" not in grid_settings(replace(OPTIONS, slots=None))["worker"]


def test_the_text_is_yaml_and_says_who_wrote_it() -> None:
    text = grid_yaml(OPTIONS)
    assert text.startswith("# Written anew by each `gridwright up`")
    assert yaml.safe_load(text) == grid_settings(OPTIONS)
