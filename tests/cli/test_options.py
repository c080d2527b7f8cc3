import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gridwright.errors import ConfigurationError
from gridwright_cli.up.announcement import announcement
from gridwright_cli.up.options import UpOptions, check_options, check_ports

OPTIONS = UpOptions(Path("data"))


@pytest.fixture
def used_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_a_used_port_is_named_with_the_option_that_chooses_another(used_port: int, free_port: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"^port {used_port} of 127.0.0.1 is in use: .*--port$"):
        check_ports(replace(OPTIONS, port=used_port, console_port=free_port))
    with pytest.raises(ConfigurationError, match=rf"^port {used_port} of 127.0.0.1 is in use: .*--console-port$"):
        check_ports(replace(OPTIONS, port=free_port, console_port=used_port))


def test_a_host_that_is_not_this_machine_is_named(free_port: int) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot listen on 203\.0\.113\.1: .*--host"):
        check_ports(replace(OPTIONS, host="203.0.113.1", port=free_port))


def test_a_host_without_an_address_is_named(free_port: int) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot listen on no\.such\.host\.invalid: .*--host"):
        check_ports(replace(OPTIONS, host="no.such.host.invalid", port=free_port))


def test_both_ports_cannot_be_one() -> None:
    with pytest.raises(ConfigurationError, match="--port and --console-port are both 8080"):
        check_options(replace(OPTIONS, port=8080))


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "build.example.org"])
def test_other_machines_are_let_in_on_request_only(host: str) -> None:
    with pytest.raises(ConfigurationError, match="--insecure"):
        check_options(replace(OPTIONS, host=host))
    check_options(replace(OPTIONS, host=host, insecure=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_this_machine_needs_no_such_request(host: str) -> None:
    check_options(replace(OPTIONS, host=host))


def test_the_announcement_begins_with_the_line_to_wait_for_and_ends_with_flags_to_paste() -> None:
    text = announcement(replace(OPTIONS, port=50100, console_port=8100, instance="team/a"))
    first, *flags = text.splitlines()
    assert first.startswith("Gridwright is ready")
    assert {"grpc://127.0.0.1:50100,", "team/a,", "http://127.0.0.1:8100"} <= set(first.split())
    assert any("--remote_executor=grpc://127.0.0.1:50100 --remote_instance_name=team/a" in line for line in flags)
    assert any("RECC_SERVER=http://127.0.0.1:50100 RECC_INSTANCE=team/a" in line for line in flags)


def test_flags_name_no_wildcard() -> None:
    text = announcement(replace(OPTIONS, host="0.0.0.0", insecure=True))
    assert "0.0.0.0" not in text
    assert f"grpc://{socket.gethostname()}:50051" in text


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert "grpc://[::1]:50051" in announcement(replace(OPTIONS, host="::1"))
    assert replace(OPTIONS, host="::1").grpc_address == "[::1]:50051"
