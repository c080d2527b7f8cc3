"""The gRPC server of a service, from its first health answer to the end of its drain."""

from __future__ import annotations

import os
import resource
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from gridwright.auth.authenticator import Authenticator
from gridwright.errors import ConfigurationError
from gridwright.file_lock import try_lock
from gridwright.settings import Address
from gridwright.telemetry.metrics import RpcMetrics
from gridwright.wire.interceptors import MetricsInterceptor, StatusInterceptor
from gridwright.wire.limits import MAX_RECEIVE_BYTES
from gridwright.wire.process_memory import suit_messages
from gridwright.wire.serving import Servicer, generic_handler

#: A first message may carry 8 KiB of RequestMetadata beside a token (HDR-06).
_MAX_METADATA_BYTES = 64 * 1024

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.max_send_message_length", MAX_RECEIVE_BYTES),
    ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
    ("grpc.max_concurrent_streams", 10_000),
    # A burst waits its turn: by default, some of what is beyond a thousand calls not yet looked at is CANCELLED.
    ("grpc.server.max_pending_requests", 10_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
    # What comes faster than it is read waits in the server's memory, for each stream: by its own measure gRPC lets that
    # be several MiB where the network is fast. So much is enough for 250 MB/s where an answer takes a millisecond.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 256 * 1024),
    ("grpc.experimental.tcp_max_read_chunk_size", 256 * 1024),
    # Clients ping every 10 s, also without calls (GRP-08); the default is to hang up on them.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What makes the server of one service differ from that of another."""

    listen: Sequence[Address]
    authenticator: Authenticator
    registry: CollectorRegistry
    drain_seconds: float = 10.0
    #: Whether other servers listen on the same TCP port, which somebody has reserved for all of them.
    share_port: bool = False
    #: What callers of these services hear when something unexpected is raised; INTERNAL elsewhere.
    unexpected_codes: Mapping[str, grpc.StatusCode] = field(default_factory=dict)


@asynccontextmanager
async def serving(servicers: Sequence[Servicer], options: ServerOptions) -> AsyncIterator[Sequence[int]]:
    """Answer RPCs while the block runs; yield the TCP port of each address (0 for a Unix socket).

    On leaving, health turns NOT_SERVING, clients get GOAWAY, and calls in flight have
    ``drain_seconds`` to finish before they are cut (checklist GRP-09).

    Raises:
        ConfigurationError: an address is in use.
    """
    _raise_open_files_limit()
    suit_messages()
    server = grpc.aio.server(
        interceptors=[MetricsInterceptor(RpcMetrics(options.registry)), StatusInterceptor(options.unexpected_codes)],
        # Without this, two servers on one port would both start, and share the connections silently.
        options=[*_OPTIONS, ("grpc.so_reuseport", int(options.share_port))],
    )
    server.add_generic_rpc_handlers([generic_handler(one, options.authenticator) for one in servicers])
    health = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = [servicer.service.full_name for servicer in servicers]
    reflection.enable_server_reflection([*names, reflection.SERVICE_NAME, "grpc.health.v1.Health"], server)
    locks: list[int] = []
    try:
        ports = [_listen(server, address, locks) for address in options.listen]
        await server.start()
        for name in ("", *names):
            await health.set(name, health_pb2.HealthCheckResponse.SERVING)
        yield ports
    finally:
        await health.enter_graceful_shutdown()
        await server.stop(options.drain_seconds)
        for lock in locks:
            os.close(lock)


def _raise_open_files_limit() -> None:
    """Allow as many open files as the host does: each connection holds one, and so may each call."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _listen(server: grpc.aio.Server, address: Address, locks: list[int]) -> int:
    if path := address.unix_path:
        path.parent.mkdir(parents=True, exist_ok=True)
        # gRPC unlinks a socket that is there and takes its place, also one in use: a lock tells.
        lock = try_lock(path.with_name(f"{path.name}.lock"))
        if lock is None:
            raise ConfigurationError(f"another process serves {address}; stop it or choose another path")
        locks.append(lock)
    try:
        port: int = server.add_insecure_port(str(address))
    except RuntimeError as error:
        raise ConfigurationError(f"cannot listen on {address}: is the port in use? ({error}); choose another") from None
    return 0 if address.is_unix else port
