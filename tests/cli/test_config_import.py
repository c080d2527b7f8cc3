"""A configuration of NativeLink in our words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gridwright.errors import ConfigurationError
from gridwright_cli.config.findings import Findings
from gridwright_cli.config.nativelink_file import read_nativelink_file
from gridwright_cli.config.nativelink_import import translate
from tests.cli.nativelink import PRODUCTION

#: A CAS with a store *S*, which a test composes.
WITH_STORE = """{{
  stores: [{{name: "S", {store}}}, {{name: "UNUSED", redis_store: {{}}}}],
  servers: [{{listener: {{http: {{socket_address: "127.0.0.1:50051"}}}}, services: {{cas: [{{cas_store: "S"}}]}}}}],
}}"""

WITH_RESULTS = """{{
  stores: [{{name: "S", {store}}}, {{name: "C", memory: {{eviction_policy: {{max_count: 9}}}}}}],
  servers: [{{
    listener: {{http: {{socket_address: "127.0.0.1:50051"}}}},
    services: {{cas: [{{cas_store: "C"}}], ac: [{{ac_store: "S"}}]}},
  }}],
}}"""


def imported(text: str, tmp_path: Path, environ: Mapping[str, str] | None = None) -> tuple[dict[str, Any], Findings]:
    (tmp_path / "nativelink.json5").write_text(text)
    findings = Findings()
    document = read_nativelink_file(tmp_path / "nativelink.json5", environ or {}, findings)
    return translate(document, findings), findings


def store(text: str, tmp_path: Path, environ: Mapping[str, str] | None = None) -> tuple[dict[str, Any], Findings]:
    settings, findings = imported(WITH_STORE.format(store=text), tmp_path, environ)
    return settings["stores"][0], findings


def results(text: str, tmp_path: Path) -> tuple[dict[str, Any], Findings]:
    """Return *text*, a store of action results, in our words."""
    settings, findings = imported(WITH_RESULTS.format(store=text), tmp_path)
    return settings["stores"][0], findings


def test_a_configuration_for_production_keeps_its_stores(tmp_path: Path) -> None:
    settings, findings = imported(PRODUCTION, tmp_path)
    assert findings.faults == []
    assert [entry["name"] for entry in settings["stores"]] == ["CAS_MAIN_STORE", "AC_MAIN_STORE"]
    cas, results = settings["stores"]
    slow = cas["existence_cache"]["backend"]["verify"]["backend"]["fast_slow"]["slow"]
    assert slow["compression"]["compression_algorithm"] == {"lz4": {}}
    assert slow["compression"]["backend"]["filesystem"]["eviction_policy"] == {"max_bytes": "10Gb"}
    assert results["completeness_checking"]["cas_store"] == {"ref_store": {"name": "CAS_MAIN_STORE"}}
    assert settings["cas"] == {"store": {"ref_store": {"name": "CAS_MAIN_STORE"}}}
    assert settings["actioncache"] == {"store": {"ref_store": {"name": "AC_MAIN_STORE"}}}
    assert settings["instances"] == [{"name": "main"}]
    assert settings["gateway"] == {"listen": "0.0.0.0:50051"}
    assert settings["auth"] == {"trust_network": True}
    assert settings["scheduler"]["platform_properties"]["ISA"] == "exact"
    assert settings["scheduler"]["platform_properties"]["OSFamily"] == "priority"


def test_all_that_was_ignored_or_changed_is_listed_with_its_path(tmp_path: Path) -> None:
    _, findings = imported(PRODUCTION, tmp_path)
    for note in (
        "servers.1.listener.http.tls: ignored: TLS is not offered yet; nothing listens at 0.0.0.0:50052",
        "servers.2.listener.http: ignored: no client connects at 0.0.0.0:50061; workers find the scheduler at "
        "endpoints.scheduler",
        "servers.2.services.health: changed: each service has /healthz and /readyz at its own address `admin`",
        "stores.CAS_MAIN_STORE.existence_cache: changed: it had no bound, and remembers at most 2,000,000 blobs now",
    ):
        assert note in findings.notes
    assert sum("auth: trust_network is on" in note for note in findings.notes) == 1


def test_old_files_have_mappings_where_new_ones_have_lists(tmp_path: Path) -> None:
    settings, findings = imported(
        """{
          stores: {S: {verify: {verify_hash: true, backend: {memory: {eviction_policy: {max_count: 9}}}}}},
          schedulers: {M: {simple: {supported_platform_properties: {ISA: "exact"}, max_job_retries: 0}}},
          servers: [{
            listener: {http: {socket_address: "127.0.0.1:50051"}},
            services: {
              cas: {"team/a": {cas_store: "S"}, "team/b": {cas_store: "S"}},
              execution: {"team/a": {cas_store: "S", scheduler: "M"}},
              bytestream: {cas_stores: {"team/a": "S"}},
            },
          }],
        }""",
        tmp_path,
    )
    assert findings.faults == []
    assert settings["instances"] == [{"name": "team/a"}, {"name": "team/b", "execution": False, "storage": "team/a"}]
    assert settings["scheduler"] == {"platform_properties": {"ISA": "exact"}, "max_attempts": 4}
    assert "auth" not in settings
    assert settings["stores"][0]["name"] == "S"


def test_a_cas_that_checks_nothing_is_verified(tmp_path: Path) -> None:
    settings, findings = imported(WITH_STORE.format(store="filesystem: {content_path: 'a'}"), tmp_path)
    assert settings["cas"]["store"] == {"verify": {"backend": {"ref_store": {"name": "S"}}}}
    assert "stores.S: changed: what is uploaded into the CAS is verified" in findings.notes
    assert "stores.S.filesystem: has no bound, and may fill the disk; write eviction_policy.max_bytes" in findings.notes


def test_checks_that_are_off_by_default_there_are_on_here(tmp_path: Path) -> None:
    one, findings = store("verify: {verify_size: true, backend: {memory: {}}}", tmp_path)
    assert one["verify"] == {"verify_size": True, "backend": {"memory": {"eviction_policy": {"max_bytes": "1Gb"}}}}
    assert "stores.S.verify.verify_hash: changed: off there unless it is written, and on here" in findings.notes


def test_what_has_no_meaning_here_is_ignored_openly(tmp_path: Path) -> None:
    text = "filesystem: {content_path: 'a', block_size: 4096, evict_page_cache: true, shape: 'round'}"
    _, findings = store(text, tmp_path)
    assert "stores.S.filesystem.block_size: ignored: there is nothing to be set" in findings.notes
    assert "stores.S.filesystem.evict_page_cache: ignored: the page cache is left to the system" in findings.notes
    assert "stores.S.filesystem.shape: ignored: Gridwright has nothing of this name" in findings.notes
    assert "stores.UNUSED: left out: neither CAS nor action cache is made of it" in findings.notes


def test_counted_caches_become_metered_ones(tmp_path: Path) -> None:
    one, _ = store(
        "cache_metrics: {cache_type: 'fast', backend: {memory: {eviction_policy: {max_count: 1}}}}", tmp_path
    )
    assert one["metered"] == {"name": "fast", "backend": {"memory": {"eviction_policy": {"max_count": 1}}}}


@pytest.mark.parametrize(
    ("redis", "url"),
    [
        ("addresses: ['redis://u:p@r:6379/2'], mode: 'standard'", "redis://u:p@r:6379/2"),
        ("addresses: ['rediss://r']", "rediss://r"),
        ("addresses: ['redis://a:1', 'redis://b:2'], mode: 'cluster'", "redis+cluster://a:1,b:2"),
        ("addresses: ['redis-cluster://:p@a:1?node=b:2&node=c:3']", "redis+cluster://:p@a:1,b:2,c:3"),
        ("addresses: ['redis+sentinel://a:1/?sentinelServiceName=m'], mode: 'sentinel'", "redis+sentinel://a:1/m"),
        ("addresses: ['redis-sentinel://a:1/3?node=b:2']", "redis+sentinel://a:1,b:2/master/3"),
    ],
)
def test_a_redis_keeps_its_address(redis: str, url: str, tmp_path: Path) -> None:
    one, findings = results(
        f"redis_store: {{{redis}, key_prefix: 'n', key_ttl_s: 60, command_timeout_ms: 9}}", tmp_path
    )
    assert findings.faults == []
    assert one == {"name": "S", "redis": {"url": url, "key_prefix": "n", "expire_seconds": 60}}
    assert any(note.startswith("stores.S.redis_store.command_timeout_ms: ignored: ") for note in findings.notes)


@pytest.mark.parametrize(
    ("redis", "fault"),
    [
        ("mode: 'standard'", "stores.S.redis_store.addresses: required, and not given"),
        ("addresses: ['http://r']", "stores.S.redis_store.addresses: the scheme 'http' is not known"),
        ("addresses: ['redis://a', 'redis://b']", "stores.S.redis_store.addresses: there are several servers"),
    ],
)
def test_a_redis_without_an_address_is_named(redis: str, fault: str, tmp_path: Path) -> None:
    _, findings = results(f"redis_store: {{{redis}}}", tmp_path)
    assert any(found.startswith(fault) for found in findings.faults), findings.faults


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("redis_store: {addresses: ['redis://r']}", "stores.S.redis: is not for blobs; write segments"),
        ("dedup: {}", "stores.S.dedup: is not offered; write its content_store in its place"),
        (
            "read_only: {backend: {shard: {stores: []}}}",
            "stores.S.read_only: is no store that is known; known are: memory, filesystem, redis_store, grpc, noop, ",
        ),
        (
            "size_partitioning: {size: 1, lower_store: {shard: {}}, upper_store: {disk: {}}}",
            "stores.S.size_partitioning.lower_store.shard: is not offered yet; write one of its stores in its place",
        ),
        ("memory: {}, noop: {}", "stores.S: write exactly one store: a mapping with one key"),
        ("ref_store: {name: 'T'}", "stores.S.ref_store.name: there is no store 'T'; known are: S, UNUSED"),
        (
            "ref_store: {name: 'S'}",
            "stores.S: holds itself (S → S); write what is meant in place of one ref_store",
        ),
        (
            "grpc: {endpoints: [{address: 'grpc://a:1', tls_config: {ca_file: 'x'}}]}",
            "stores.S.grpc.endpoints.0.tls_config: TLS between services is not offered yet",
        ),
        (
            "compression: {compression_algorithm: {lz4: {}}, backend: {grpc: {endpoints: [{address: 'grpc://a:1'}]}}}",
            "stores.S.compression.backend.grpc: another CAS refuses bytes that are not those of their digest; let it "
            "compress, and write grpc without it",
        ),
        (
            "filesystem: {content_path: '${NOWHERE}'}",
            "stores.0.filesystem.content_path: the environment variable NOWHERE",
        ),
        ("memory: 5", "stores.S.memory: is not a mapping"),
    ],
)
def test_what_cannot_be_translated_is_named_with_its_path(text: str, fault: str, tmp_path: Path) -> None:
    _, findings = store(text, tmp_path)
    assert any(found.startswith(fault) for found in findings.faults), findings.faults


def test_variables_of_the_environment_are_filled_in(tmp_path: Path) -> None:
    text = "filesystem: {content_path: '${DATA:-/var}/cas$$', eviction_policy: {max_bytes: '${SIZE:-1Gb}'}}"
    one, _ = store(text, tmp_path, {"DATA": "", "SIZE": "5Gb"})
    assert one["filesystem"] == {"content_path": "/var/cas$", "eviction_policy": {"max_bytes": "5Gb"}}
    one, _ = store("filesystem: {content_path: '$DATA/x'}", tmp_path, {"DATA": "/data"})
    assert one["filesystem"]["content_path"] == "/data/x"


def test_schedulers_around_a_scheduler_are_looked_through(tmp_path: Path) -> None:
    settings, findings = imported(
        """{
          schedulers: [
            {name: "M", cache_lookup: {ac_store: "A", scheduler: {simple: {
              supported_platform_properties: {cpu_count: "minimum"}, max_job_retries: 1, retain_completed_for_s: 90,
            }}}},
            {name: "OTHER", simple: {}},
          ],
          servers: [{services: {execution: [{cas_store: "C", scheduler: "M"}]}}],
        }""",
        tmp_path,
    )
    assert settings["scheduler"] == {
        "platform_properties": {"cpu_count": "minimum"},
        "max_attempts": 2,
        "retention_seconds": 90,
    }
    assert "schedulers.OTHER: left out: no service `execution` names it" in findings.notes
    assert any(note.startswith("schedulers.M.cache_lookup: ignored: ") for note in findings.notes)


def test_a_kind_of_property_that_is_none_is_named(tmp_path: Path) -> None:
    text = """{schedulers: [{name: "M", simple: {supported_platform_properties: {ISA: "best"}}}],
               servers: [{services: {execution: [{scheduler: "M"}]}}]}"""
    _, findings = imported(text, tmp_path)
    [fault] = findings.faults
    assert fault.startswith("schedulers.M.simple.supported_platform_properties.ISA: is 'best'; write one of exact, ")


def test_a_worker_is_told_what_it_is_told_there(tmp_path: Path) -> None:
    settings, findings = imported(
        """{workers: [{local: {
          name: "w", work_directory: "/w", max_inflight_tasks: 4, max_action_timeout_s: 600, entrypoint: "x",
          worker_api_endpoint: {uri: "grpc://s:50061"},
          platform_properties: {ISA: {values: ["x86-64"]}, cpu_count: {query_cmd: "nproc"}},
        }}, {local: {}}]}""",
        tmp_path,
    )
    assert settings == {
        "worker": {
            "name": "w",
            "root": "/w",
            "max_timeout_seconds": 600,
            "slots": 4,
            "platform": {"ISA": ["x86-64"]},
        }
    }
    assert [note.split(":")[0] for note in findings.notes] == [
        "workers.0.local.worker_api_endpoint",
        "workers.0.local.platform_properties.cpu_count",
        "workers.0.local.entrypoint",
        "workers.1",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{\n  stores: [\n    }", r"not JSON5: .*nativelink.json5, line 3: Unexpected"),
        ("{a: 1, a: 2}", 'not JSON5: .*Duplicate key "a"'),
        ("[]", "must be a mapping of stores"),
    ],
)
def test_a_file_that_is_none_is_refused_with_the_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        imported(text, tmp_path)
