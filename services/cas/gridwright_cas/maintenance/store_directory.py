"""Finds the store that a path means, and opens its parts."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from gridwright.clock import SystemClock
from gridwright.errors import ConfigurationError
from gridwright_cas.stores.segments.disk import SystemDisk
from gridwright_cas.stores.segments.engine import Engine, SegmentSettings
from gridwright_cas.stores.segments.index import Index
from gridwright_cas.stores.segments.parts import Parts
from gridwright_cas.stores.segments.quarantine import Quarantine
from gridwright_cas.stores.segments.remover import Remover
from gridwright_cas.stores.segments.survivors import Survivors


@dataclass(frozen=True)
class OpenDirectory:
    """One store, without the threads that a service has on it."""

    engine: Engine
    parts: Parts
    survivors: Survivors
    remover: Remover


def find_store(path: Path, domain: str | None) -> Path:
    """Return the directory of the segment store that *path* means.

    That is *path* itself, or, where it is a ``content_path``, the directory in it of the storage
    domain *domain*, which may be left out if there is but one.

    Raises:
        ConfigurationError: there is none, or more than one.
    """
    try:
        if _is_store(path):
            if domain is not None:
                raise ConfigurationError(f"{path} is itself the store of one storage domain: leave the domain out")
            return _usable(path)
        stores = {_domain_of(child): child for child in sorted(path.iterdir()) if _is_store(child)}
    except OSError as error:
        raise ConfigurationError(f"cannot read {error.filename or path}: {error.strerror}") from None
    if not stores and (path / "segments").is_dir():
        raise ConfigurationError(f"the index of the store in {path} is lost: start its service, which makes a new one")
    if not stores:
        raise ConfigurationError(
            f"{path} is no segment store and holds none: name the content_path of a `segments` store,"
            " or the directory of one storage domain in it"
        )
    known = ", ".join(map(repr, stores))
    if domain is None and len(stores) > 1:
        raise ConfigurationError(f"{path} holds the storage domains {known}: choose one (--storage-domain)")
    found = next(iter(stores.values())) if domain is None else stores.get(domain)
    if found is None:
        raise ConfigurationError(f"{path} has no storage domain {domain!r}; there is {known}")
    return _usable(found)


@contextmanager
def open_directory(path: Path) -> Iterator[OpenDirectory]:
    """Open the store in *path* while the block runs; services may run on it.

    Raises:
        ConfigurationError: it cannot be opened.
    """
    engine = Engine.open(path, SystemClock(), settings_of(path))
    try:
        survivors = Survivors(engine.parts)
        yield OpenDirectory(engine, engine.parts, survivors, Remover(engine.parts, survivors))
    finally:
        engine.close()


def quarantine_of(directory: OpenDirectory) -> Quarantine:
    """Return where the bytes of rotten blobs are kept."""
    return Quarantine(directory.parts, directory.remover)


def settings_of(path: Path) -> SegmentSettings:
    """Return the settings with which the store was last opened by a service.

    Raises:
        ConfigurationError: none ever did.
    """
    index = Index.open(path / "index", SystemDisk())
    try:
        settings = SegmentSettings.kept_in(index)
    finally:
        index.close()
    if settings is None:
        raise ConfigurationError(f"{path} does not say how large it may become: start its service on it once")
    return settings


def _is_store(path: Path) -> bool:
    return (path / "index" / "data.mdb").is_file() and (path / "segments").is_dir()


def _usable(path: Path) -> Path:
    """Refuse to leave files of one user in the store of another, whose service could not read them."""
    owner = path.stat().st_uid
    if owner == os.geteuid():
        return path
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = str(owner)
    raise ConfigurationError(f"{path} belongs to the user {name}: run this as that user (sudo -u {name} …)")


def _domain_of(directory: Path) -> str:
    """Return the storage domain of a directory in a ``content_path``; that of the empty name is called %."""
    return "" if directory.name == "%" else unquote(directory.name)
