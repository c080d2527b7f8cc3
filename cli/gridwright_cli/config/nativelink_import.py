"""A whole configuration of NativeLink in our words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gridwright.errors import ConfigurationError
from gridwright.settings import Address, GridSettings, validate_settings
from gridwright.store_settings.named_stores import NamedStores, Root, Use
from gridwright.store_settings.store import StoreSettings
from gridwright_cli.config.findings import Findings
from gridwright_cli.config.nativelink_file import entries
from gridwright_cli.config.nativelink_services import (
    Served,
    ServedInstance,
    read_servers,
    scheduler_section,
    worker_section,
)
from gridwright_cli.config.nativelink_stores import StoreTranslation

Settings = dict[str, Any]


def translate(document: Mapping[str, Any], findings: Findings) -> Settings:
    """Return our settings file for NativeLink's *document*; where there are faults, it is of no use."""
    with findings.keys_of(document, "") as keys:
        stores = StoreTranslation(entries(keys.take("stores"), "stores", findings), findings)
        served = read_servers(keys.take("servers"), findings)
        settings: Settings = {}
        if served.instances:
            settings["instances"] = _instances(served, findings)
        services = _services(served, stores, findings)
        if listed := stores.result():
            settings["stores"] = listed
        settings |= services
        if scheduler := scheduler_section(keys.take("schedulers"), served.scheduler, findings):
            settings["scheduler"] = scheduler
        if worker := worker_section(keys.take("workers"), findings):
            settings["worker"] = worker
        keys.ignore("there is nothing to be set", "global", "experimental_origin_events")
    if not findings.faults:
        _check(settings, findings)
    return settings


def _instances(served: Served, findings: Findings) -> list[Settings]:
    first, *others = served.instances.values()
    name = first.name or "main"
    if not first.name:
        findings.note("instances", "changed: the instance without a name is called main, and still answers to none")
    instances = [_instance(name, first)]
    for other in others:
        if other.name in ("", name):
            continue  # the empty name is always the first instance as well
        instances.append({**_instance(other.name, other), "storage": name})
    return instances


def _instance(name: str, instance: ServedInstance) -> Settings:
    return {"name": name} if instance.execution else {"name": name, "execution": False}


def _services(served: Served, stores: StoreTranslation, findings: Findings) -> Settings:
    settings: Settings = {}
    for section, key in (("cas", "cas_store"), ("actioncache", "ac_store")):
        names = list(dict.fromkeys(getattr(one, section) for one in served.instances.values() if getattr(one, section)))
        for name in names[1:]:
            findings.note(served.paths[name], f"ignored: all instances are kept in one {key}, {names[0]}")
        if names:
            stores.require(names[0], served.paths[names[0]])
            settings[section] = {"store": _reference(section, names[0], stores, findings)}
    if served.listen:
        settings["gateway"] = {"listen": served.listen}
        if not _is_local(served.listen):
            findings.note("auth", "trust_network is on, as whoever reaches the port could do everything there, too")
            settings["auth"] = {"trust_network": True}
    return settings


def _reference(section: str, name: str, stores: StoreTranslation, findings: Findings) -> Settings:
    reference: Settings = {"ref_store": {"name": name}}
    if section == "cas" and not stores.verifies(name):
        findings.note(f"stores.{name}", "changed: what is uploaded into the CAS is verified")
        return {"verify": {"backend": reference}}
    return reference


def _is_local(address: str) -> bool:
    try:
        return Address.parse(address).is_local
    except ValueError:
        return False


def _check(settings: Settings, findings: Findings) -> None:
    """Look for what our services would refuse; what is only theirs to know, `gridwright config check` asks them."""
    try:
        grid = validate_settings(GridSettings, settings, source="the translation")
        roots = [
            Root(f"{section}.store", StoreSettings.model_validate(settings[section]["store"]), use)
            for section, use in (("cas", Use.BLOBS), ("actioncache", Use.RESULTS))
            if section in settings
        ]
    except ConfigurationError as error:
        findings.faults += str(error).splitlines()[1:]
    else:
        findings.faults += [f"{path}: {message}" for path, message in NamedStores(grid.stores).faults(roots)]
