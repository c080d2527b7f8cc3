"""`gridwright config`, as a user runs it."""

from pathlib import Path

import yaml

from tests.cli.nativelink import PRODUCTION
from tests.cli.test_command_line import gridwright


def test_the_command_writes_the_settings_and_says_what_it_left_out(tmp_path: Path) -> None:
    (tmp_path / "nativelink.json5").write_text(PRODUCTION)
    ended = gridwright("config", "import", "nativelink.json5", cwd=tmp_path)
    assert ended.returncode == 0
    assert "servers.1.listener.http.tls: ignored" in ended.stderr
    assert list(yaml.safe_load(ended.stdout)) == [
        "instances",
        "stores",
        "cas",
        "actioncache",
        "gateway",
        "auth",
        "scheduler",
    ]
    ended = gridwright("config", "import", "nativelink.json5", "--output", "grid.yaml", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "")
    checked = gridwright("config", "check", "grid.yaml", cwd=tmp_path)
    assert (checked.returncode, checked.stdout) == (0, "grid.yaml: 5 services can use it\n")


def test_the_command_ends_with_the_faults(tmp_path: Path) -> None:
    (tmp_path / "nativelink.json5").write_text(PRODUCTION.replace("existence_cache", "dedup"))
    ended = gridwright("config", "import", "nativelink.json5", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert (
        "gridwright: stores.CAS_MAIN_STORE.dedup: is not offered; write its content_store in its place\n"
        in ended.stderr
    )
    assert gridwright("config", "import", "nowhere.json5", cwd=tmp_path).returncode == 125


def test_settings_that_a_service_would_refuse_do_not_pass_the_check(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text("cas: {store: {noop: {}}}\nscheduler: {max_queued: 0}\n")
    ended = gridwright("config", "check", "grid.yaml", cwd=tmp_path)
    assert ended.returncode == 78
    assert "cas.store: keeps no blobs; a noop can only be a part of a store" in ended.stderr
    assert "scheduler.max_queued: " in ended.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "grid.yaml"]
