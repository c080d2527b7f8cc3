import os
from pathlib import Path

import pytest

from gridwright.errors import ConfigurationError
from gridwright_cli.up.data_directory import DataDirectory


def test_it_is_made_with_its_parents(tmp_path: Path) -> None:
    with DataDirectory(tmp_path / "a" / "b").locked():
        assert (tmp_path / "a" / "b" / "run").is_dir()


def test_a_second_one_is_kept_out_and_told_who_is_in(tmp_path: Path) -> None:
    with (
        DataDirectory(tmp_path).locked(),
        pytest.raises(ConfigurationError, match=rf"pid {os.getpid()}\) uses {tmp_path}: .*--data"),
        DataDirectory(tmp_path).locked(),
    ):
        pass
    with DataDirectory(tmp_path).locked():
        pass


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="--data"), DataDirectory(tmp_path / "file").locked():
        pass


def test_pids_are_noted_and_forgotten(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    with data.locked():
        assert data.noted_pid("cas") is None
        data.note_pid("cas", 4711)
        assert (tmp_path / "run" / "cas.pid").read_text() == "4711\n"
        assert data.noted_pid("cas") == 4711
        data.forget_pid("cas")
        assert data.noted_pid("cas") is None
