"""``python -m gridwright_gateway --config grid.yaml``"""

from __future__ import annotations

import sys

from gridwright.wire.process import run
from gridwright_gateway.app import open_app
from gridwright_gateway.config import GatewayFile
from gridwright_gateway.envoy_process import EnvoyEnded


def main() -> None:
    """Run the gateway until SIGTERM, or until its Envoy ends; whoever started us starts both again."""
    try:
        run("gateway", GatewayFile, open_app)
    except EnvoyEnded as error:
        sys.exit(f"gridwright-gateway: {error}")


if __name__ == "__main__":
    main()
