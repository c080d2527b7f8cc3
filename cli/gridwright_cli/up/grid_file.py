"""The settings file that a local grid's services share."""

from __future__ import annotations

from typing import Any

import yaml

from gridwright_cli.up.options import UpOptions

#: Its name in the data directory, where all services run, which keeps the paths in it short and movable.
GRID_FILE = "grid.yaml"


def socket_of(service: str) -> str:
    """Return the address of a service's gRPC socket."""
    return f"unix:run/{service}.sock"


def admin_socket_of(service: str) -> str:
    """Return the address of a service's admin pages."""
    return f"unix:run/{service}-admin.sock"


def grid_settings(options: UpOptions) -> dict[str, Any]:
    """Return the settings of a grid with embedded state, whose services are joined by Unix sockets."""
    slots = {} if options.slots is None else {"slots": options.slots}
    return {
        "instances": [{"name": options.instance}],
        "endpoints": {name: socket_of(name) for name in ("cas", "actioncache", "scheduler")},
        "auth": {"trust_network": options.insecure},
        "log": {"level": "info", "format": "text"},
        "cas": {
            **_listeners("cas"),
            "store": {
                "verify": {"backend": {"segments": {"content_path": "cas", "eviction_policy": {"max_bytes": "20Gb"}}}}
            },
            "uploads": {"spool_path": "uploads"},
        },
        "actioncache": {
            **_listeners("actioncache"),
            "store": {"completeness_checking": {"backend": {"lmdb": {"path": "actioncache", "max_bytes": "4Gb"}}}},
        },
        "scheduler": {
            **_listeners("scheduler"),
            "database_url": "sqlite:///scheduler.db",
            # There is no other worker to wait for.
            "avoid_failed_worker_seconds": 0,
        },
        "worker": {
            "admin": admin_socket_of("worker"),
            "instance": options.instance,
            "root": "worker",
            "cache_max_bytes": "10Gb",
            # Ctrl-C is answered sooner than a rollout: what takes longer goes back into the scheduler's queue.
            "drain_seconds": 10,
            **slots,
        },
        "gateway": {
            "listen": str(options.grpc_address),
            "console": str(options.console_address),
            "admin": admin_socket_of("gateway"),
            "directory": "gateway",
            "drain_seconds": 3,
        },
    }


def grid_yaml(options: UpOptions) -> str:
    """Return the text of the settings file."""
    return (
        "# Written anew by each `gridwright up`, from its options: change those, or set GRIDWRIGHT_SECTION__KEY.\n"
        + yaml.safe_dump(grid_settings(options), sort_keys=False)
    )


def _listeners(service: str) -> dict[str, str]:
    return {"listen": socket_of(service), "admin": admin_socket_of(service)}
