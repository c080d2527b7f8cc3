"""NativeLink's servers, schedulers and workers, as sections of our settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gridwright_cli.config.findings import Findings, Keys
from gridwright_cli.config.nativelink_file import entries

Section = dict[str, Any]

#: Decorators of schedulers, and what becomes of what they do.
_DECORATORS = {
    "cache_lookup": "the scheduler asks the action cache before it queues an action, always",
    "property_modifier": "platform properties are not rewritten; scheduler.platform_properties says which count",
    "historical_resource": "past use of resources is not a hint for the scheduler yet",
}
#: Kinds of platform properties that mean something else here.
_DIFFERENT_KINDS = {
    "minimum": "what running actions asked for is not taken off what their worker offers",
}
_PROPERTY_KINDS = ("exact", "minimum", "priority", "ignore")


@dataclass
class ServedInstance:
    """An instance name, and what its services are made of."""

    name: str
    cas: str = ""
    actioncache: str = ""
    execution: bool = False


@dataclass
class Served:
    """What the servers of one file come to."""

    instances: dict[str, ServedInstance] = field(default_factory=dict)
    #: The name of the scheduler that answers Execute.
    scheduler: str = ""
    #: Where clients connect without TLS.
    listen: str = ""
    #: Where the names were found, for what is said about them.
    paths: dict[str, str] = field(default_factory=dict)

    def instance(self, name: str) -> ServedInstance:
        return self.instances.setdefault(name, ServedInstance(name))


def read_servers(document: object, findings: Findings) -> Served:
    """Return what the `servers` of a file serve, and where."""
    served = Served()
    # A server without a name is the rule; in old files servers were a list already.
    for index, server in enumerate(entries(document, "servers", findings)):
        path = f"servers.{index}"
        with findings.keys_of(server, path) as keys:
            keys.take("name")
            services = keys.mapping("services")
            for_clients = {"cas", "ac", "execution", "capabilities", "bytestream"}.intersection(services)
            _read_listener(keys.take("listener"), f"{path}.listener", bool(for_clients), served, findings)
            _read_services(services, f"{path}.services", served, findings)
    return served


def _read_listener(document: object, path: str, for_clients: bool, served: Served, findings: Findings) -> None:
    with (
        findings.keys_of(document or {}, path) as kinds,
        findings.keys_of(kinds.take("http") or {}, f"{path}.http") as http,
    ):
        address = str(http.take("socket_address") or "")
        tls = http.take("tls")
        http.ignore("the gateway has limits of its own", "max_decoding_message_size", "advanced_http")
        http.ignore("blobs are compressed, messages are not", "compression")
        if tls is not None:
            findings.note(f"{http.path}.tls", f"ignored: TLS is not offered yet; nothing listens at {address}")
        elif not for_clients:
            findings.note(
                http.path,
                f"ignored: no client connects at {address}; workers find the scheduler at endpoints.scheduler",
            )
        elif served.listen:
            findings.note(
                http.path, f"ignored: the gateway has one address, {served.listen}; nothing listens at {address}"
            )
        else:
            served.listen = address


def _read_services(document: object, path: str, served: Served, findings: Findings) -> None:
    with findings.keys_of(document, path) as keys:
        for name, one in _of_instances(keys, "cas", findings):
            _once(one, "cas_store", served.instance(name), "cas", served, findings)
            one.ignore("SplitBlob and SpliceBlob are not offered yet", "experimental_chunking")
        for name, one in _of_instances(keys, "ac", findings):
            _once(one, "ac_store", served.instance(name), "actioncache", served, findings)
            if one.take("read_only"):
                findings.note(f"{one.path}.read_only", "ignored: who may write is a matter of roles here")
        for name, one in _of_instances(keys, "execution", findings):
            served.instance(name).execution = True
            one.ignore("it is the one of the service cas", "cas_store")
            scheduler = str(one.take("scheduler") or "")
            if served.scheduler not in ("", scheduler):
                findings.note(f"{one.path}.scheduler", f"ignored: all instances share the scheduler {served.scheduler}")
            else:
                served.scheduler = scheduler
        for _, one in _of_instances(keys, "capabilities", findings):
            one.take("remote_execution")
            one.ignore("blobs travel uncompressed, for now", "remote_cache_compression")
        _read_bytestream(keys.take("bytestream"), f"{path}.bytestream", findings)
        keys.take("worker_api")
        if keys.take("health") is not None:
            findings.note(f"{path}.health", "changed: each service has /healthz and /readyz at its own address `admin`")
        keys.ignore("is not offered yet", "fetch", "push", "experimental_bep", "admin")


def _read_bytestream(document: object, path: str, findings: Findings) -> None:
    """Leave the byte streams to the CAS, of which they are a part here."""
    listed = document if isinstance(document, list) else [document] if document else []
    for one in listed:
        with findings.keys_of(one, path) as keys:
            for key in ("cas_stores", "cas_store", "instance_name"):
                keys.take(key)
            persistence = ("persist_stream_on_disconnect_timeout", "persist_stream_on_disconnect_timeout_s")
            keys.ignore("uploads that break off start again, for now", *persistence)
            keys.ignore("there is nothing to be set", "max_bytes_per_stream", "max_decoding_message_size")


def _of_instances(keys: Keys, service: str, findings: Findings) -> Iterator[tuple[str, Keys]]:
    """Yield instance name and keys of each entry of a service, which is done with when the next one comes."""
    path = f"{keys.path}.{service}"
    for index, entry in enumerate(entries(keys.take(service), path, findings, name="instance_name")):
        with findings.keys_of(entry, f"{path}.{index}") as one:
            yield str(one.take("instance_name") or ""), one


def _once(keys: Keys, key: str, instance: ServedInstance, attribute: str, served: Served, findings: Findings) -> None:
    """Let the instance be made of the store that *keys* names, unless it is made of another one already."""
    name = str(keys.take(key) or "")
    before = getattr(instance, attribute)
    if before and before != name:
        findings.note(f"{keys.path}.{key}", f"ignored: the instance {instance.name!r} is made of {before}")
        return
    setattr(instance, attribute, name)
    served.paths.setdefault(name, f"{keys.path}.{key}")


def scheduler_section(document: object, wanted: str, findings: Findings) -> Section:
    """Return our section `scheduler`: what the scheduler *wanted* is told there."""
    schedulers = {str(one.get("name", "")): one for one in entries(document, "schedulers", findings)}
    for name in schedulers:
        if name != wanted:
            findings.note(f"schedulers.{name}", "left out: no service `execution` names it")
    if wanted not in schedulers:
        if wanted:
            findings.fault(f"schedulers.{wanted}", "an execution service names it, and it is not there")
        return {}
    source = {key: value for key, value in schedulers[wanted].items() if key != "name"}
    return _scheduler(source, f"schedulers.{wanted}", findings)


def _scheduler(source: object, path: str, findings: Findings) -> Section:
    if not isinstance(source, Mapping) or len(source) != 1:
        findings.fault(path, "write exactly one scheduler: a mapping with one key")
        return {}
    [(kind, content)] = source.items()
    path = f"{path}.{kind}"
    if kind in _DECORATORS:
        findings.note(path, f"ignored: {_DECORATORS[kind]}")
        return _scheduler((content or {}).get("scheduler"), f"{path}.scheduler", findings)
    if kind != "simple":
        findings.note(path, "ignored: only `simple` says something that Gridwright's scheduler can be told")
        return {}
    section: Section = {}
    with findings.keys_of(content or {}, path) as keys:
        if properties := _properties(keys.mapping("supported_platform_properties"), keys.path, findings):
            section["platform_properties"] = properties
        if (retries := keys.take("max_job_retries")) is not None:
            section["max_attempts"] = _attempts(retries, keys.path, findings)
        if seconds := keys.take("retain_completed_for_s", "retain_completed_for"):
            section["retention_seconds"] = seconds
        if seconds := keys.take("max_action_executing_timeout_s", "max_action_executing_timeout"):
            section["max_execution_seconds"] = seconds
        keys.ignore("see scheduler.bots", "worker_timeout_s", "unacknowledged_kill_timeout_s")
        keys.ignore("actions go on when their clients leave, for now", "client_action_timeout_s")
        keys.ignore("the queue is in a database, see scheduler.database_url", "experimental_backend")
        keys.ignore("there is nothing to be set", "allocation_strategy", "worker_match_logging_interval_s")
        keys.ignore("there is nothing to be set", "fallback_match_interval_s")
    return section


def _attempts(retries: object, path: str, findings: Findings) -> int:
    if not str(retries).isdecimal():
        findings.fault(f"{path}.max_job_retries", f"is {retries!r}, and not a number")
        return 1
    # Zero meant the default there, which is three.
    return (int(str(retries)) or 3) + 1


def _properties(document: Mapping[str, Any], path: str, findings: Findings) -> dict[str, str]:
    path = f"{path}.supported_platform_properties"
    kinds = {str(name): str(kind).lower() for name, kind in document.items()}
    for name, kind in kinds.items():
        if kind not in _PROPERTY_KINDS:
            findings.fault(f"{path}.{name}", f"is {kind!r}; write one of {', '.join(_PROPERTY_KINDS)}")
    for kind, why in _DIFFERENT_KINDS.items():
        if names := ", ".join(name for name, one in kinds.items() if one == kind):
            findings.note(f"{path} ({names})", f"changed: {why}")
    return kinds


def worker_section(document: object, findings: Findings) -> Section:
    """Return our section `worker`: what the first worker is told there."""
    if document is not None and not isinstance(document, list):
        findings.fault("workers", "is not a list")
        return {}
    section: Section = {}
    for index, worker in enumerate(document or []):
        path = f"workers.{index}"
        if index:
            findings.note(path, "left out: a settings file is for one worker; give each machine its own")
            continue
        with (
            findings.keys_of(worker, path) as kinds,
            findings.keys_of(kinds.take("local") or {}, f"{path}.local") as keys,
        ):
            section = _worker(keys, findings)
    return section


def _worker(keys: Keys, findings: Findings) -> Section:
    section = keys.copy("name")
    if uri := keys.mapping("worker_api_endpoint").get("uri"):
        findings.note(
            f"{keys.path}.worker_api_endpoint", f"ignored: {uri} is not of our protocol; see endpoints.scheduler"
        )
    if root := keys.take("work_directory"):
        section["root"] = root
    if seconds := keys.take("max_action_timeout_s", "max_action_timeout"):
        section["max_timeout_seconds"] = seconds
    if slots := keys.take("max_inflight_tasks"):
        section["slots"] = slots
    if platform := _platform(keys.mapping("platform_properties"), keys.path, findings):
        section["platform"] = platform
    keys.ignore("the worker has an input cache of its own, see worker.cache_max_bytes", "cas_fast_slow_store")
    keys.ignore("the scheduler writes the action cache", "upload_action_result")
    keys.ignore("directories are cached always", "directory_cache")
    keys.ignore("actions are given the environment of their command only", "additional_environment", "entrypoint")
    return section


def _platform(document: Mapping[str, Any], path: str, findings: Findings) -> Section:
    platform: Section = {}
    for name, offered in document.items():
        values = offered.get("values") if isinstance(offered, Mapping) else None
        if not isinstance(values, list):
            findings.note(f"{path}.platform_properties.{name}", "ignored: only `values` is understood; write the value")
        else:
            platform[name] = [str(value) for value in values]
    return platform
