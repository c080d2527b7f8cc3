"""Renders the Envoy configuration: one static bootstrap document, out of plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gridwright_gateway.routing.table import ROUTES, Backend, Retry, Route
from gridwright_gateway.routing.targets import Endpoint, Host, Pipe

#: A part of the document, as YAML writes it.
Part: TypeAlias = dict[str, object]

#: Envoy's name of our listener; its statistics are below ``http.grpc.``.
LISTENER = "grpc"

#: How much of one stream may be under way to a reader that is slow. It bounds what Envoy holds in memory for a
#: stream, and the size of a request that it can send again (a full batch can be), and, with the delay of the
#: network, the speed of an upload: 200 MB/s at 20 ms. On one machine, 16 MiB are no faster than one.
_STREAM_WINDOW_BYTES = 4 * 1024 * 1024
_CONNECTION_WINDOW_BYTES = 16 * 1024 * 1024
#: Envoy's default of 1,024 answers UNAVAILABLE to whatever is beyond it, and every action that waits is a call.
_MAX_CALLS = 1_000_000
_MAX_CONNECTIONS = 50_000
#: A connection whose other side is gone without a word is found and dropped, and the calls on it end.
_KEEPALIVE: Part = {"interval": "30s", "timeout": "20s"}
#: Also first messages with 8 KiB of RequestMetadata beside a token pass (checklist HDR-06).
_MAX_HEADERS_KIB = 64
_RETRY_ON = {
    #: What shows that a call was not answered ...
    Retry.UNANSWERED: "connect-failure,refused-stream,reset",
    #: ... and what a service sends to mean that another try may succeed.
    Retry.UNAVAILABLE: "unavailable,connect-failure,refused-stream",
}
#: A service that restarts is back in a second or two; five tries, with waits of 1.2 s on average, span that.
_RETRIES: Part = {
    "num_retries": 5,
    "retry_back_off": {"base_interval": "0.05s", "max_interval": "1s"},
}
#: Beyond one call in five, tries again would only add to the load that makes calls fail.
_RETRY_BUDGET: Part = {"budget_percent": {"value": 20.0}, "min_retry_concurrency": 20}

_TYPES = "type.googleapis.com/envoy"
_UNREACHED = (
    "the %UPSTREAM_CLUSTER% service does not answer the gateway (%LOCAL_REPLY_BODY%); "
    "it may be starting again: try once more, or see /status on the console"
)
_UNKNOWN = "%REQ(:PATH)% is no method of this endpoint, which speaks gRPC only; see / on the console"


@dataclass(frozen=True, slots=True)
class Gateway:
    """What an Envoy is to do."""

    listen: Endpoint
    #: Where each service is; several endpoints share the calls.
    backends: Mapping[Backend, Sequence[Endpoint]]
    #: The Unix socket of Envoy's own admin pages.
    admin_socket: str
    #: The methods that are counted one by one, per RPC service. Not simply all: clients could invent any number.
    counted: Mapping[str, Sequence[str]]


def render(gateway: Gateway) -> Part:
    """Return the bootstrap document that makes Envoy this *gateway*."""
    return {
        "node": {"id": "gridwright-gateway", "cluster": "gridwright"},
        "admin": {"address": _address(Pipe(gateway.admin_socket))},
        "overload_manager": {"resource_monitors": [_connection_limit()]},
        "static_resources": {
            "listeners": [_listener(gateway.listen, gateway.counted)],
            "clusters": [_cluster(backend, endpoints) for backend, endpoints in gateway.backends.items()],
        },
    }


def _listener(listen: Endpoint, counted: Mapping[str, Sequence[str]]) -> Part:
    listener: Part = {
        "name": LISTENER,
        "address": _address(listen),
        "filter_chains": [
            {
                "filters": [
                    _extension(
                        "envoy.filters.network.http_connection_manager",
                        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                        _connection_manager(counted),
                    )
                ]
            }
        ],
    }
    if isinstance(listen, Host):
        # Without it, a second gateway on the same port takes half of the connections, and neither says a word.
        listener["enable_reuse_port"] = False
    return listener


def _connection_manager(counted: Mapping[str, Sequence[str]]) -> Part:
    return {
        "stat_prefix": LISTENER,
        "codec_type": "AUTO",
        "http2_protocol_options": _http2(),
        "max_request_headers_kb": _MAX_HEADERS_KIB,
        "forward_client_cert_details": "SANITIZE",
        "use_remote_address": True,
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        "route_config": {
            "name": "services",
            "virtual_hosts": [
                {"name": "grid", "domains": ["*"], "routes": [*(_route(route) for route in ROUTES), _no_route()]}
            ],
        },
        "local_reply_config": {"mappers": [_unknown(), _unreached()]},
        "http_filters": [
            _extension(
                "envoy.filters.http.header_mutation",
                "extensions.filters.http.header_mutation.v3.HeaderMutation",
                {"mutations": {"request_mutations": _forged_headers()}},
            ),
            _extension(
                "envoy.filters.http.grpc_stats",
                "extensions.filters.http.grpc_stats.v3.FilterConfig",
                {
                    "enable_upstream_stats": True,
                    "individual_method_stats_allowlist": {
                        "services": [{"name": name, "method_names": list(methods)} for name, methods in counted.items()]
                    },
                },
            ),
            _extension(
                "envoy.filters.http.router",
                "extensions.filters.http.router.v3.Router",
                {"suppress_envoy_headers": True},
            ),
        ],
    }


def _route(route: Route) -> Part:
    action: Part = {
        "cluster": route.backend.value,
        # The default of 15 seconds would cut every call that waits for an action. The caller's deadline travels
        # in a header that client and service both keep; if Envoy kept it too (`max_stream_duration`), it would now
        # and then be first, and a stream that it resets says INTERNAL instead of DEADLINE_EXCEEDED.
        "timeout": "0s",
    }
    if route.held:
        # Against five minutes of silence, which an action that takes longer keeps as well.
        action["idle_timeout"] = "0s"
    if route.retry is not Retry.NEVER:
        action["retry_policy"] = {"retry_on": _RETRY_ON[route.retry], **_RETRIES}
    return {"match": {"prefix" if route.is_whole_service else "path": route.path, "grpc": {}}, "route": action}


def _no_route() -> Part:
    # Envoy tells a gRPC client UNIMPLEMENTED where it tells others 404.
    return {"match": {"prefix": "/"}, "direct_response": {"status": 404}}


def _unknown() -> Part:
    return {
        "filter": {
            "status_code_filter": {
                "comparison": {"op": "EQ", "value": {"default_value": 404, "runtime_key": "gridwright.none"}}
            }
        },
        "body_format_override": _text(_UNKNOWN),
    }


def _unreached() -> Part:
    """Say in the error which service is away; Envoy's own words name only an errno."""
    return {
        # No connection; none that is healthy; cut; a limit reached; reset by the other side.
        "filter": {"response_flag_filter": {"flags": ["UF", "UH", "UC", "UO", "UR"]}},
        "body_format_override": _text(_UNREACHED),
    }


def _forged_headers() -> list[Part]:
    """Drop what only a gateway may say of a caller, and what would change how Envoy treats the call."""
    return [
        {"remove": "x-forwarded-client-cert"},
        {"remove_on_match": {"key_matcher": {"prefix": "x-gridwright-", "ignore_case": True}}},
        {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-", "ignore_case": True}}},
    ]


def _cluster(backend: Backend, endpoints: Sequence[Endpoint]) -> Part:
    named = any(isinstance(endpoint, Host) and not endpoint.is_address for endpoint in endpoints)
    return {
        "name": backend.value,
        **(_looked_up() if named else {"type": "STATIC"}),
        "connect_timeout": "2s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": _http2()},
            }
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": _MAX_CALLS,
                    "max_pending_requests": _MAX_CALLS,
                    "max_requests": _MAX_CALLS,
                    "retry_budget": _RETRY_BUDGET,
                }
            ]
        },
        "load_assignment": {
            "cluster_name": backend.value,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(endpoint)}} for endpoint in endpoints]}],
        },
    }


def _looked_up() -> Part:
    """Every address behind a name shares the calls, and a service that moved is found within seconds."""
    config: Part = {"dns_refresh_rate": "5s", "dns_lookup_family": "V4_PREFERRED"}
    return {"cluster_type": _extension("envoy.clusters.dns", "extensions.clusters.dns.v3.DnsCluster", config)}


def _http2() -> Part:
    return {
        "initial_stream_window_size": _STREAM_WINDOW_BYTES,
        "initial_connection_window_size": _CONNECTION_WINDOW_BYTES,
        "max_concurrent_streams": _MAX_CALLS,
        "connection_keepalive": _KEEPALIVE,
    }


def _address(endpoint: Endpoint) -> Part:
    match endpoint:
        case Pipe(path):
            return {"pipe": {"path": path}}
        case Host(name, port):
            return {"socket_address": {"address": name, "port_value": port}}


def _connection_limit() -> Part:
    return _extension(
        "envoy.resource_monitors.global_downstream_max_connections",
        "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        {"max_active_downstream_connections": _MAX_CONNECTIONS},
    )


def _extension(name: str, type_: str, config: Part) -> Part:
    return {"name": name, "typed_config": {"@type": f"{_TYPES}.{type_}", **config}}


def _text(text: str) -> Part:
    return {"text_format_source": {"inline_string": text}}
