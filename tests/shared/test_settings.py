"""Settings: what is read, what wins, and what is said when they make no sense."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from gridwright.errors import ConfigurationError
from gridwright.quantities import ByteSize
from gridwright.sections import Section
from gridwright.settings import Address, GridSettings, ServerSettings, load_settings
from gridwright.telemetry.logging import LogFormat


class Store(Section):
    """A section within a section."""

    max_bytes: ByteSize = 1
    """A size."""

    name: str = "store"
    """A word."""


class CasSettings(ServerSettings):
    """The section of a service."""

    listen: Address = Address("127.0.0.1:50071")
    """An address."""

    admin: Address = Address("127.0.0.1:9071")
    """Another."""

    store: Store = Store()
    """A section."""


class CasFile(GridSettings):
    """A settings file as the CAS might read it."""

    cas: CasSettings = CasSettings()
    """Its section."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "grid.yaml"


def load(file: Path, text: str = "", environ: Mapping[str, str] | None = None) -> CasFile:
    file.write_text(text)
    return load_settings(CasFile, path=file, environ=environ or {})


def refusal(file: Path, text: str = "", environ: Mapping[str, str] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(file, text, environ)
    return str(caught.value)


def test_everything_has_a_default() -> None:
    settings = load_settings(CasFile, path=None, environ={})
    assert [one.name for one in settings.instances] == ["main"]
    assert settings.log.format is LogFormat.AUTO
    assert settings.cas.listen.is_local


def test_an_empty_file_is_all_defaults(file: Path) -> None:
    assert load(file) == load(file, "# nothing yet\n") == CasFile()


def test_the_file_is_read(file: Path) -> None:
    settings = load(file, "cas: {listen: 'unix:run/cas.sock', store: {max_bytes: 64kb}}\nlog: {format: json}")
    assert settings.cas.listen == "unix:run/cas.sock"
    assert settings.cas.store.max_bytes == 64_000
    assert settings.log.format is LogFormat.JSON


def test_sections_of_other_services_are_left_to_them(file: Path) -> None:
    load(file, "scheduler: {no_such_key: 1}\nworker: 7\ngateway: null\nactioncache: []")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("colour: blue", "colour: unknown key; remove it, or look for a typing error"),
        ("cas: {colour: blue}", "cas.colour: unknown key"),
        ("cas: {store: {max_byte: 5}}", "cas.store.max_byte: unknown key"),
        ("log: {level: loud}", "log.level: input should be 'debug', 'info', 'warning' or 'error'"),
        ("cas: {store: {max_bytes: 0}}", "cas.store.max_bytes: input should be greater than 0"),
        ("cas: {store: {max_bytes: 5 apples}}", "cas.store.max_bytes: '5 apples' is not a size; write a number"),
        ("cas: {drain_seconds: 0}", "cas.drain_seconds: input should be greater than 0"),
        ("cas: 7", "cas: input should be a valid dictionary"),
        ("instances: []", "instances: tuple should have at least 1 item"),
        ("instances: [{aliases: [x]}]", "instances.0.name: required, and not given"),
        ("instances: [{name: a}, {name: a}]", "settings: the instance name 'a' is given twice"),
        ("instances: [{name: a/blobs}]", "instances.0.name: 'blobs' cannot be a segment"),
        ("instances: [{name: a, digest_functions: [crc32]}]", "unknown digest function 'crc32'; known are sha256"),
    ],
)
def test_what_makes_no_sense_is_named_with_its_path(file: Path, text: str, line: str) -> None:
    message = refusal(file, text)
    assert message.startswith(f"the settings in {file} cannot be used:\n")
    assert line in message


def test_all_faults_are_told_at_once(file: Path) -> None:
    message = refusal(file, "cas: {listen: x, colour: blue}\nlog: {level: loud}")
    assert len(message.splitlines()) == 4


@pytest.mark.parametrize(
    ("text", "why"), [("a: [1", "is not YAML"), ("- a\n- b", "must be a mapping of sections, not a list"), ("7", "int")]
)
def test_a_file_that_holds_no_settings_is_named(file: Path, text: str, why: str) -> None:
    message = refusal(file, text)
    assert str(file) in message
    assert why in message


def test_a_file_that_is_not_there_or_no_text_is_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"cannot read the settings file {file}: No such file"):
        load_settings(CasFile, path=file, environ={})
    with pytest.raises(ConfigurationError, match="Is a directory"):
        load_settings(CasFile, path=tmp_path, environ={})
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="is not YAML"):
        load_settings(CasFile, path=file, environ={})


def test_the_environment_wins_over_the_file(file: Path) -> None:
    environ = {
        "GRIDWRIGHT_CAS__LISTEN": "127.0.0.1:1234",
        "GRIDWRIGHT_CAS__STORE__MAX_BYTES": "2Gb",
        "GRIDWRIGHT_INSTANCES": "[{name: main}, {name: team/a}]",
        "GRIDWRIGHT_CAS_PORT": "ignored, as it has no '__': a container platform has set it",
        "GRIDWRIGHT_SCHEDULER__ANYTHING": "for another service",
        "OTHER__THING": "not ours",
    }
    settings = load(file, "cas: {listen: '127.0.0.1:1', store: {name: kept}}", environ)
    assert settings.cas.listen == "127.0.0.1:1234"
    assert settings.cas.store == Store(max_bytes=2_000_000_000, name="kept")
    assert [instance.name for instance in settings.instances] == ["main", "team/a"]


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({"GRIDWRIGHT_CAS__COLOUR": "blue"}, "cas.colour: unknown key"),
        ({"GRIDWRIGHT_CAS__LISTEN__PORT": "1"}, "GRIDWRIGHT_CAS__LISTEN__PORT sets a key inside 'listen'"),
        ({"GRIDWRIGHT_CAS__LISTEN": "[1"}, "the value of the environment variable GRIDWRIGHT_CAS__LISTEN is not YAML"),
    ],
)
def test_an_environment_that_makes_no_sense_is_named(file: Path, environ: Mapping[str, str], why: str) -> None:
    assert why in refusal(file, "cas: {listen: '127.0.0.1:1'}", environ)


@pytest.mark.parametrize(
    ("written", "size_bytes"),
    [
        (5, 5),
        ("5", 5),
        ("64kb", 64_000),
        ("64KiB", 65_536),
        ("64k", 65_536),
        ("1.5Mb", 1_500_000),
        ("512MiB", 512 * 1024**2),
        ("10Gb", 10**10),
        (" 1 TiB ", 1024**4),
        ("7b", 7),
    ],
)
def test_sizes_are_written_as_people_write_them(written: int | str, size_bytes: int) -> None:
    assert Store.model_validate({"max_bytes": written}).max_bytes == size_bytes


@pytest.mark.parametrize("written", ["", "kb", "-5", "5 parsecs", "0", "1e9", "5kb5", "inf", "nan", 1.5, None, [5]])
def test_what_is_no_size_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="max_bytes"):
        Store.model_validate({"max_bytes": written})


@pytest.mark.parametrize(
    ("text", "host_and_port", "local"),
    [
        ("127.0.0.1:50051", ("127.0.0.1", 50051), True),
        ("127.9.9.9:0", ("127.9.9.9", 0), True),
        ("localhost:80", ("localhost", 80), True),
        ("[::1]:80", ("::1", 80), True),
        ("0.0.0.0:80", ("0.0.0.0", 80), False),
        ("[::]:80", ("::", 80), False),
        ("10.0.0.1:65535", ("10.0.0.1", 65535), False),
        ("cas.example.org:80", ("cas.example.org", 80), False),
    ],
)
def test_a_tcp_address_is_a_host_and_a_port(text: str, host_and_port: tuple[str, int], local: bool) -> None:
    address = Address.parse(text)
    assert address.host_and_port == host_and_port
    assert address.is_local is local
    assert address.unix_path is None
    assert str(address) == text


def test_a_unix_address_is_a_path() -> None:
    address = Address.parse("unix:run/cas.sock")
    assert address.is_unix
    assert address.is_local
    assert address.unix_path == Path("run/cas.sock")


@pytest.mark.parametrize(
    "text", ["", "cas", "50051", ":50051", "cas:", "cas:http", "cas:70000", "cas:-1", "unix:", "unix:" + "x" * 108]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an address|1 to 107 bytes"):
        Address.parse(text)


def test_an_address_in_settings_is_checked_and_is_one(file: Path) -> None:
    settings = load(file, "cas: {listen: 'unix:x'}")
    assert isinstance(settings.cas.listen, Address)
    assert "cas.admin: 'nowhere' is not an address" in refusal(file, "cas: {admin: nowhere}")
