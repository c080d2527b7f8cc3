"""A grid whose stores are small, and may be filled, broken and restarted by the tests that do so."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.journeys.grid import Grid, running_grid

#: Blobs of fewer bytes are kept in memory, of which there is 1 MB; the least recently used goes first.
IN_MEMORY_BELOW_BYTES = 64 * 1024
MEMORY_BYTES = 1_000_000
#: Others are kept on the disk, where nothing goes that was used in the last hours: when it is full, it is full.
DISK_BYTES = 16_000_000
#: So many small results are kept; the least recently used go first.
RESULTS_IN_MEMORY = 50
#: Larger results are kept on the disk, where one of so many bytes is too many.
LARGEST_RESULT_BYTES = 500_000
#: Of actions that say nothing else.
DEFAULT_TIMEOUT_SECONDS = 3
#: So often an action is tried whose worker dies.
MAX_ATTEMPTS = 2
#: So many actions may wait for a worker.
MAX_QUEUED = 20
#: Each has stores of its own.
INSTANCES = ("main", "full")


@contextmanager
def small_grid() -> Iterator[Grid]:
    """Run the grid while the block runs."""
    # The names of sockets must be short, so no directory of pytest's.
    with tempfile.TemporaryDirectory(prefix="gridwright-") as where:
        data = Path(where) / "data"
        disk = {
            "content_path": str(data / "cas"),
            "eviction_policy": {"max_bytes": DISK_BYTES},
            "strict_retention": True,
        }
        store = {
            "verify": {
                "backend": {
                    "size_partitioning": {
                        "size": IN_MEMORY_BELOW_BYTES,
                        "lower_store": {"memory": {"eviction_policy": {"max_bytes": MEMORY_BYTES}}},
                        "upper_store": {"segments": disk},
                    }
                }
            }
        }
        results = {
            "completeness_checking": {
                "backend": {
                    "size_partitioning": {
                        "size": IN_MEMORY_BELOW_BYTES,
                        "lower_store": {"memory": {"eviction_policy": {"max_count": RESULTS_IN_MEMORY}}},
                        "upper_store": {"lmdb": {"path": str(data / "results"), "max_bytes": 4_000_000}},
                    }
                }
            }
        }
        environment = {
            "GRIDWRIGHT_INSTANCES": json.dumps([{"name": name} for name in INSTANCES]),
            "GRIDWRIGHT_CAS__STORE": json.dumps(store),
            "GRIDWRIGHT_ACTIONCACHE__STORE": json.dumps(results),
            "GRIDWRIGHT_SCHEDULER__KEEPALIVE_SECONDS": "1",
            "GRIDWRIGHT_SCHEDULER__MAX_ATTEMPTS": str(MAX_ATTEMPTS),
            "GRIDWRIGHT_SCHEDULER__MAX_QUEUED": str(MAX_QUEUED),
            "GRIDWRIGHT_SCHEDULER__NO_WORKER_GRACE_SECONDS": "2",
            "GRIDWRIGHT_WORKER__DEFAULT_TIMEOUT_SECONDS": str(DEFAULT_TIMEOUT_SECONDS),
        }
        with running_grid("--slots", "1", data=data, environment=environment) as grid:
            yield grid
