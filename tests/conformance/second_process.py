"""A second process of a service of the grid, at an address of the test's choice, on the same data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.journeys.grid import Grid

_STOP_SECONDS = 30.0


@contextmanager
def second_process(grid: Grid, service: str, listen: str, environment: Mapping[str, str]) -> Iterator[None]:
    """Run another process of *service* at *listen* while the block runs; it need not listen yet at its beginning.

    *environment* is what the grid's processes got.
    """
    prefix = f"GRIDWRIGHT_{service.upper()}__"
    # As YAML: an address of IPv6 would else be taken for a list.
    own = {f"{prefix}LISTEN": json.dumps(listen), f"{prefix}ADMIN": f"unix:run/second-{service}-admin.sock"}
    if service == "gateway":
        own |= {f"{prefix}CONSOLE": "unix:run/second-console.sock", f"{prefix}DIRECTORY": "second-gateway"}
    process = subprocess.Popen(
        [sys.executable, "-m", f"gridwright_{service}", "--config", "grid.yaml"],
        cwd=grid.data,
        env={**os.environ, **environment, **own},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(_STOP_SECONDS) == 0
