"""Asks a server how it is, in the protocol of gRPC's own health service."""

from __future__ import annotations

from typing import Final

from grpc_health.v1 import health_pb2

from gridwright.wire.rpc import Channel, Method

#: The one answer that means yes.
SERVING: Final = "SERVING"

_CHECK: Final = Method(
    path="/grpc.health.v1.Health/Check",
    name="check",
    request=health_pb2.HealthCheckRequest,
    response=health_pb2.HealthCheckResponse,
    client_streaming=False,
    server_streaming=False,
)


async def ask_health(channel: Channel, service: str = "", *, timeout: float) -> str:
    """Return how *service* says it is, the whole server by default: SERVING, NOT_SERVING, UNKNOWN.

    Raises:
        GridwrightError: there is no answer.
    """
    answer = await channel.unary_unary(_CHECK, health_pb2.HealthCheckRequest(service=service), timeout=timeout)
    status: int = answer.status
    if status not in health_pb2.HealthCheckResponse.ServingStatus.values():
        return f"status {status}"
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
