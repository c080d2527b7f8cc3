"""The table of routes, the targets, and the document rendered from them; nothing runs here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gridwright.errors import ConfigurationError
from gridwright_gateway.routing.envoy import Gateway, render
from gridwright_gateway.routing.table import ROUTES, Backend
from gridwright_gateway.routing.targets import Endpoint, Host, Pipe, parse_listener, parse_target
from tests.gateway.echo import SERVICES

PLAN = Gateway(
    listen=Host("127.0.0.1", 50051),
    backends={backend: [Pipe(f"run/{backend}.sock")] for backend in Backend},
    admin_socket="gateway/envoy-admin.sock",
    counted={"google.bytestream.ByteStream": ["Read", "Write"]},
)


def listener(plan: Gateway = PLAN) -> dict[str, Any]:
    document: Any = render(plan)
    [only] = document["static_resources"]["listeners"]
    return dict(only)


def routes() -> dict[str, dict[str, Any]]:
    """The rendered route actions, by path."""
    manager = listener()["filter_chains"][0]["filters"][0]["typed_config"]
    rendered = manager["route_config"]["virtual_hosts"][0]["routes"]
    return {(one["match"].get("path") or one["match"]["prefix"]): one.get("route", {}) for one in rendered}


def cluster(*endpoints: Endpoint) -> dict[str, Any]:
    document: Any = render(Gateway(PLAN.listen, {Backend.CAS: endpoints}, PLAN.admin_socket, {}))
    [only] = document["static_resources"]["clusters"]
    return dict(only)


def test_every_service_of_ours_has_a_route_to_where_it_is() -> None:
    whole = {route.path: route.backend for route in ROUTES if route.is_whole_service}
    ours = {f"/{service.full_name}/": backend for backend, services in SERVICES.items() for service in services}
    assert {path: whole.get(path) for path in ours} == ours


def test_single_methods_stand_before_their_service_and_go_the_same_way() -> None:
    for index, route in enumerate(ROUTES):
        if not route.is_whole_service:
            later = [one for one in ROUTES[index:] if route.path.startswith(one.path) and one.is_whole_service]
            assert [one.backend for one in later] == [route.backend]


def test_envoy_sets_no_limit_to_how_long_a_call_takes() -> None:
    actions = [action for path, action in routes().items() if path != "/"]
    assert {action["timeout"] for action in actions} == {"0s"}
    assert not any("max_stream_duration" in action for action in actions)


@pytest.mark.parametrize(
    "service",
    [
        "build.bazel.remote.execution.v2.Execution",
        "google.bytestream.ByteStream",
        "google.devtools.remoteworkers.v1test2.Bots",
        "google.longrunning.Operations",
        "build.bazel.remote.logstream.v1.LogStreamService",
    ],
)
def test_a_silent_stream_is_not_cut(service: str) -> None:
    assert routes()[f"/{service}/"]["idle_timeout"] == "0s"


def test_only_questions_are_asked_again() -> None:
    retried = {path.rpartition("/")[2] for path, action in routes().items() if "retry_policy" in action}
    assert retried == {"GetCapabilities", "GetActionResult", "FindMissingBlobs", "BatchReadBlobs"}
    assert cluster(Pipe("a"))["circuit_breakers"]["thresholds"][0]["retry_budget"]["budget_percent"] == {"value": 20.0}


def test_as_many_calls_may_wait_as_a_farm_has() -> None:
    [limits] = cluster(Pipe("a"))["circuit_breakers"]["thresholds"]
    assert min(limits[name] for name in ("max_connections", "max_pending_requests", "max_requests")) >= 100_000


def test_a_port_is_not_shared_silently() -> None:
    assert listener()["enable_reuse_port"] is False


def test_a_name_is_looked_up_and_an_address_is_not() -> None:
    assert cluster(Host("10.0.0.1", 1), Host("::1", 1))["type"] == "STATIC"
    assert cluster(Pipe("run/cas.sock"))["type"] == "STATIC"
    assert cluster(Host("cas", 50071))["cluster_type"]["name"] == "envoy.clusters.dns"


@pytest.mark.parametrize(
    ("target", "endpoints"),
    [
        ("unix:run/cas.sock", [Pipe("run/cas.sock")]),
        ("unix:///run/cas.sock", [Pipe("/run/cas.sock")]),
        ("127.0.0.1:50071", [Host("127.0.0.1", 50071)]),
        ("[::1]:50071", [Host("::1", 50071)]),
        ("cas:50071", [Host("cas", 50071)]),
        ("dns:50071", [Host("dns", 50071)]),
        ("dns:cas:50071", [Host("cas", 50071)]),
        ("dns:///cas.grid.svc:50071", [Host("cas.grid.svc", 50071)]),
        ("dns://8.8.8.8/cas:50071", [Host("cas", 50071)]),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", [Host("10.0.0.1", 1), Host("10.0.0.2", 2)]),
        ("ipv6:[fe80::1]:1", [Host("fe80::1", 1)]),
    ],
)
def test_targets_mean_what_they_mean_to_grpc(target: str, endpoints: list[Endpoint]) -> None:
    assert list(parse_target(target, key="endpoints.cas")) == endpoints


@pytest.mark.parametrize(
    "target",
    [
        "",
        "cas",
        "cas:",
        ":50071",
        "cas:http",
        "cas:0",
        "cas:65536",
        "::1:1",
        "http://cas:1",
        "unix:",
        "unix:" + "a" * 108,
    ],
)
def test_a_target_that_is_none_is_refused_with_its_key(target: str) -> None:
    with pytest.raises(ConfigurationError, match=r"endpoints\.cas: "):
        parse_target(target, key="endpoints.cas")


def test_a_listener_is_an_address_not_a_name() -> None:
    assert parse_listener("localhost:1", key="k") == Host("127.0.0.1", 1)
    assert parse_listener("[::1]:0", key="k") == Host("::1", 0)
    assert parse_listener("unix:run/gateway.sock", key="k") == Pipe("run/gateway.sock")
    with pytest.raises(ConfigurationError, match=r"gateway\.listen: 'build.example.org:1' is a name"):
        parse_listener("build.example.org:1", key="gateway.listen")


def test_relative_paths_stay_relative() -> None:
    document: Any = render(PLAN)
    assert document["admin"]["address"]["pipe"]["path"] == "gateway/envoy-admin.sock"
    assert not Path(cluster(Pipe("run/cas.sock"))["load_assignment"]["cluster_name"]).is_absolute()
