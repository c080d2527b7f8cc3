"""What `gridwright up` says once a build can run."""

from __future__ import annotations

from gridwright_cli.up.options import UpOptions

#: How the line begins that people and scripts wait for.
READY = "Gridwright is ready"


def announcement(options: UpOptions) -> str:
    """Return the line that says so, and below it the flags to paste into clients."""
    where = f"{options.reachable_host}:{options.port}"
    console = f"http://{options.reachable_host}:{options.console_port}"
    name = options.instance
    return "\n".join(
        [
            f"{READY}: grpc://{where}, instance {name or '(empty)'}, console {console}",
            f"  Bazel:             --remote_executor=grpc://{where} --remote_instance_name={name}",
            f"  Bazel, cache only: --remote_cache=grpc://{where} --remote_instance_name={name}",
            f"  recc:              RECC_SERVER=http://{where} RECC_INSTANCE={name}",
        ]
    )
