"""The stores of one settings file, joined by their names, and the compositions that make no sense.

What a single store can say of itself its model checks. Here is what takes several of them: names, directories,
what lies above and below, and what a service wants to keep.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from gridwright.store_settings.leaves import (
    FilesystemStoreSettings,
    GrpcStoreSettings,
    LmdbStoreSettings,
    RefStoreSettings,
    SegmentsStoreSettings,
)
from gridwright.store_settings.store import (
    CompletenessCheckingStoreSettings,
    ExistenceCacheStoreSettings,
    FastSlowStoreSettings,
    NamedStoreSettings,
    StoreSettings,
)


class Use(StrEnum):
    """What a service keeps in its store."""

    BLOBS = "blobs"
    RESULTS = "action results"


class Root(NamedTuple):
    """The store of one service."""

    path: str
    store: StoreSettings
    use: Use


class Fault(NamedTuple):
    """Something that makes no sense."""

    #: The key in the settings file.
    path: str
    #: What is wrong with it, and what to write instead.
    message: str


@dataclass(frozen=True, slots=True)
class _Place:
    """A store, where it is written, and what is around it."""

    path: str
    store: StoreSettings
    use: Use | None
    #: The kinds of the stores that hold this one, the outermost first.
    above: tuple[str, ...] = ()
    #: Its name, where it is an entry of the list `stores`.
    name: str = ""

    @property
    def key(self) -> str:
        return f"{self.path}.{self.store.kind}"


class NamedStores:
    """The list `stores`, by name."""

    def __init__(self, stores: Sequence[NamedStoreSettings]) -> None:
        self._stores: Mapping[str, StoreSettings] = {store.name: store for store in stores}
        self._twice = [name for name, count in Counter(store.name for store in stores).items() if count > 1]

    def __getitem__(self, name: str) -> StoreSettings:
        return self._stores[name]

    def target(self, store: StoreSettings) -> StoreSettings:
        """Return what *store* stands for, which is itself unless it is a reference; faults were looked for before."""
        while isinstance(reference := store.variant, RefStoreSettings):
            store = self._stores[reference.name]
        return store

    def made_of(self, root: Root) -> Iterator[tuple[str, StoreSettings]]:
        """Yield key and settings of each store in *root*, also through references; faults were looked for before."""
        for place in self._followed(_Place(*root)):
            yield place.key, place.store

    def faults(self, roots: Sequence[Root], neighbours: Sequence[Root] = ()) -> list[Fault]:
        """Return what makes no sense about these stores and the *roots*, which are stores of this service.

        *neighbours* are the stores of services in the same file, which look for their own faults.
        """
        places = [*self._places(), *(place for root in roots for place in _walk(_Place(*root)))]
        known = [*places, *(place for root in neighbours for place in _walk(_Place(*root)))]
        # Where names lead nowhere, or in circles, nothing else can be followed.
        faults = [*self._faults_of_names(places)]
        if faults or any(True for _ in self._faults_of_names(known)):
            return faults
        faults += _shared_directories(known)
        faults += self._shared_stores([*roots, *neighbours])
        for place in places:
            faults += self._faults_of_store(place)
        for root in roots:
            if self._keeps_nothing(root.store):
                faults.append(Fault(root.path, f"keeps no {root.use}; a noop can only be a part of a store"))
        blobs = [root for root in (*roots, *neighbours) if root.use is Use.BLOBS]
        for top in [*(_Place(*root) for root in roots), *map(self._entry, self._stores)]:
            for place in self._followed(top):
                faults += self._faults_of_surroundings(place)
                faults += self._faults_of_cas_store(place, blobs)
        return list(dict.fromkeys(faults))

    def _places(self) -> Iterator[_Place]:
        for name in self._stores:
            yield from _walk(self._entry(name))

    def _followed(self, place: _Place) -> Iterator[_Place]:
        """Yield *place* and all below it, also through references."""
        variant = place.store.variant
        if isinstance(variant, RefStoreSettings):
            yield from self._followed(self._entry(variant.name, place))
            return
        yield place
        for inner in _inner(place):
            yield from self._followed(inner)

    def _entry(self, name: str, reference: _Place | None = None) -> _Place:
        """Return the place of an entry of the list, as it is seen through *reference*."""
        use, above = (reference.use, reference.above) if reference else (None, ())
        return _Place(f"stores.{name}", self._stores[name], use, above, name)

    def _faults_of_names(self, places: Sequence[_Place]) -> Iterator[Fault]:
        for name in self._twice:
            yield Fault(f"stores.{name}", "the name is given twice; give one of the two another")
        for place in places:
            if isinstance(place.store.variant, RefStoreSettings) and place.store.variant.name not in self._stores:
                yield self._unknown(place.key, place.store.variant.name)
            elif isinstance(place.store.variant, CompletenessCheckingStoreSettings):
                cas = place.store.variant.cas_store
                if cas is not None and cas.ref_store is not None and cas.ref_store.name not in self._stores:
                    yield self._unknown(f"{place.key}.cas_store.ref_store", cas.ref_store.name)
        for name in self._stores:
            if circle := self._circle(name, ()):
                path = " → ".join(circle)
                yield Fault(f"stores.{name}", f"holds itself ({path}); write what is meant in place of one ref_store")

    def _unknown(self, key: str, name: str) -> Fault:
        known = ", ".join(self._stores) or "none, since there is no list `stores`"
        return Fault(f"{key}.name", f"there is no store {name!r} in the list `stores`; known are: {known}")

    def _circle(self, name: str, above: tuple[str, ...]) -> tuple[str, ...]:
        if name in above:
            # Told of those who are in the circle, not of those who only lead to it.
            return (*above, name) if above[0] == name else ()
        for place in _walk(self._entry(name)):
            reference = place.store.variant
            if not isinstance(reference, RefStoreSettings) or reference.name not in self._stores:
                continue
            if circle := self._circle(reference.name, (*above, name)):
                return circle
        return ()

    def _faults_of_store(self, place: _Place) -> Iterator[Fault]:
        """Yield what is wrong with a store wherever it is used."""
        match place.store.variant:
            case ExistenceCacheStoreSettings() as cache:
                if not (self._announces_removals(cache.backend) or cache.eviction_policy.max_seconds):
                    yield Fault(
                        f"{place.key}.eviction_policy.max_seconds",
                        "required over grpc, since another CAS does not tell what it removes; write, say, 600",
                    )
            case FastSlowStoreSettings() as halves if self._keeps_nothing(halves.slow):
                yield Fault(
                    f"{place.key}.slow",
                    "keeps nothing, and decides what is there, so nothing would be; write what is in `fast` alone",
                )
            case _:
                pass

    def _faults_of_surroundings(self, place: _Place) -> Iterator[Fault]:
        """Yield what is wrong with a store because of who uses it, and what is above it."""
        kind = place.store.kind
        if (instead := _ELSEWHERE.get(kind, {}).get(place.use)) is not None:
            yield Fault(place.key, f"is not for {place.use}; {instead}")
        if isinstance(place.store.variant, GrpcStoreSettings):
            yield from _faults_of_remote(place, place.store.variant)
        if "compression" in place.above and (why := _UNDER_COMPRESSION.get(kind)) is not None:
            yield Fault(place.key, why)
        if kind == "completeness_checking":
            if kind in place.above:
                yield Fault(place.key, "results that were checked need no second check; write it once")
            elif tier := {"fast_slow", "size_partitioning"}.intersection(place.above):
                yield Fault(place.key, f"checks only a part of the results; write it around the {min(tier)}")

    def _faults_of_cas_store(self, place: _Place, cas: Sequence[Root]) -> Iterator[Fault]:
        variant = place.store.variant
        if not isinstance(variant, CompletenessCheckingStoreSettings) or variant.cas_store is None:
            return
        key = f"{place.key}.cas_store"
        if isinstance(variant.cas_store.variant, RefStoreSettings):
            served = [self.target(root.store) for root in cas]
            if served and self.target(variant.cas_store) not in served:
                name = variant.cas_store.variant.name
                yield Fault(key, f"{name} is not what the CAS serves; write cas.store: {{ref_store: {{name: {name}}}}}")
        elif not isinstance(remote := variant.cas_store.variant, GrpcStoreSettings):
            yield Fault(key, "the CAS is another service; write ref_store or grpc, or leave it to endpoints.cas")
        elif remote.store_type != "cas":
            yield Fault(f"{key}.grpc.store_type", "is no CAS; write cas")

    def _shared_stores(self, roots: Sequence[Root]) -> Iterator[Fault]:
        """Yield the stores that hold blobs for one service and results for another."""
        users: dict[str, Root] = {}
        for root in roots:
            for place in self._followed(_Place(*root)):
                user = users.setdefault(place.name, root) if place.name else root
                if user.use is not root.use:
                    yield Fault(
                        place.path,
                        f"keeps {user.use} for {user.path} and {root.use} for {root.path}; write a store for each",
                    )

    def _keeps_nothing(self, store: StoreSettings) -> bool:
        target = self.target(store)
        inner = dict(target.inner())
        if target.kind == "fast_slow":
            return self._keeps_nothing(inner["slow"])
        if inner:
            return all(self._keeps_nothing(one) for one in inner.values())
        return target.kind == "noop"

    def _announces_removals(self, store: StoreSettings) -> bool:
        target = self.target(store)
        inner = dict(target.inner())
        if isinstance(halves := target.variant, FastSlowStoreSettings) and halves.slow_direction.takes_puts:
            return self._announces_removals(halves.slow)
        return target.kind != "grpc" and all(self._announces_removals(one) for one in inner.values())


#: Which kinds are not for which use, and what is instead.
_ELSEWHERE: Mapping[str, Mapping[Use | None, str]] = {
    "lmdb": {Use.BLOBS: "write segments"},
    "redis": {Use.BLOBS: "write segments"},
    "write_once": {Use.BLOBS: "the blob of a digest is always the same; write its backend alone"},
    "expiring": {Use.BLOBS: "write eviction_policy: {max_seconds: …} in the store that keeps them"},
    "completeness_checking": {Use.BLOBS: "write it in actioncache.store"},
    "segments": {Use.RESULTS: "write lmdb or filesystem"},
    "verify": {Use.RESULTS: "their digest is that of the action; write completeness_checking, or its backend alone"},
    "compression": {Use.RESULTS: "they are small; write its backend alone"},
    "existence_cache": {Use.RESULTS: "they are small, and read whenever they exist; write its backend alone"},
}

#: Which kinds see the blobs themselves, and what to write where they would see compressed ones.
_UNDER_COMPRESSION: Mapping[str, str] = {
    "verify": "would check the compressed bytes; write {verify: {backend: {compression: …}}}",
    "compression": "compresses a second time what was compressed; write it once",
    "grpc": "another CAS refuses bytes that are not those of their digest; let it compress, and write grpc without it",
}


def _faults_of_remote(place: _Place, remote: GrpcStoreSettings) -> Iterator[Fault]:
    if place.use is None:
        return
    store_type = "ac" if place.use is Use.RESULTS else "cas"
    if remote.store_type != store_type:
        yield Fault(f"{place.key}.store_type", f"is not for {place.use}; write {store_type}")
    elif store_type == "ac" and "size_partitioning" in place.above:
        yield Fault(
            place.key,
            "an action cache elsewhere cannot be told to remove a result that has become larger or smaller; write "
            "size_partitioning in its own settings",
        )


def _walk(place: _Place) -> Iterator[_Place]:
    """Yield *place* and all that is written inside it."""
    yield place
    for inner in _inner(place):
        yield from _walk(inner)


def _inner(place: _Place) -> Iterator[_Place]:
    for key, store in place.store.inner():
        yield _Place(f"{place.key}.{key}", store, place.use, (*place.above, place.store.kind))


def _shared_directories(places: Sequence[_Place]) -> Iterator[Fault]:
    held: list[tuple[str, Path]] = []
    for place in places:
        own = [(f"{place.key}.{key}", Path(os.path.abspath(path))) for key, path in _directories(place.store)]
        for key, path in own:
            for other_key, other in held:
                if path == other:
                    yield Fault(key, f"is the directory of {other_key} as well; give each its own")
                elif path.is_relative_to(other) or other.is_relative_to(path):
                    yield Fault(key, f"one inside the other, this and {other_key}; give each a directory of its own")
        held += own


def _directories(store: StoreSettings) -> Iterator[tuple[str, Path]]:
    match store.variant:
        case FilesystemStoreSettings() as files:
            yield "content_path", files.content_path
            if files.temp_path is not None:
                yield "temp_path", files.temp_path
        case SegmentsStoreSettings() as segments:
            yield "content_path", segments.content_path
        case LmdbStoreSettings() as lmdb:
            yield "path", lmdb.path
        case _:
            pass
