"""Instances: the tenants of a grid, as clients name them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gridwright.auth.result_writers import ResultWriters
from gridwright.digest import DigestFunction
from gridwright.errors import UnknownInstance
from gridwright.quantities import ByteBound

#: Words that delimit resource names, so no segment of an instance name may be one (checklist INS-03).
RESERVED_SEGMENTS = frozenset(
    {"blobs", "uploads", "actions", "actionResults", "operations", "capabilities", "compressed-blobs"}
)


def _check_instance_name(name: str) -> str:
    segments = name.split("/") if name else []
    if any(not segment for segment in segments):
        raise ValueError("an instance name neither begins nor ends with '/', nor holds '//'")
    if reserved := RESERVED_SEGMENTS.intersection(segments):
        raise ValueError(f"{min(reserved)!r} cannot be a segment of an instance name: resource names use it")
    return name


def _parse_function(value: object) -> object:
    if isinstance(value, str):
        try:
            return DigestFunction[value.upper()]
        except KeyError:
            known = ", ".join(function.name.lower() for function in DigestFunction)
            raise ValueError(f"unknown digest function {value!r}; known are {known}") from None
    return value


InstanceName = Annotated[str, AfterValidator(_check_instance_name)]
FunctionName = Annotated[DigestFunction, BeforeValidator(_parse_function)]


class InstanceSettings(BaseModel):
    """One instance."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: InstanceName
    """The name that clients send (`--remote_instance_name`); it may hold slashes, and may be empty."""

    aliases: tuple[InstanceName, ...] = ()
    """Other names of the same instance. The empty name means the first instance unless another one claims it."""

    digest_functions: tuple[FunctionName, ...] = Field(default=tuple(DigestFunction), min_length=1)
    """The digest functions that clients may use, as lower-case names."""

    storage: str | None = None
    """The storage domain; instances with the same one share blobs. By default each instance has its own."""

    execution: bool = True
    """Whether actions can be executed, or only cached."""

    result_writers: ResultWriters = ResultWriters.WRITERS
    """Who may write the action cache: `scheduler` (only what the grid itself has run), `writers` (also callers with the
    role writer), `anyone` (also all who may read)."""

    strict_results: bool = False
    """Whether a result is taken only while its action, its command and all outputs are in the CAS."""

    read_only: bool = False
    """Whether clients can only read: no uploads, and no results of theirs. Such an instance executes nothing."""

    max_blob_bytes: ByteBound = 0
    """The largest blob that clients may upload (0: any). Larger ones that are there already can still be read."""

    @model_validator(mode="after")
    def _what_only_reads_does_not_execute(self) -> Self:
        if self.read_only and self.execution:
            raise ValueError("a read-only instance cannot keep what actions make: write execution: false beside it")
        return self


@dataclass(frozen=True, slots=True)
class Instance:
    """One tenant: what it is called, and what clients of it may use."""

    name: str
    storage: str
    digest_functions: tuple[DigestFunction, ...]
    execution: bool
    result_writers: ResultWriters
    strict_results: bool
    read_only: bool
    #: The largest blob that may be uploaded; 0: any (checklist CAP-19).
    max_blob_bytes: int
    #: The function meant by a hash of this length when the request names none (checklist DIG-05, 06).
    by_hash_length: dict[int, DigestFunction]

    @classmethod
    def from_settings(cls, settings: InstanceSettings) -> Self:
        by_hash_length: dict[int, DigestFunction] = {}
        for function in sorted(settings.digest_functions):
            by_hash_length.setdefault(function.hash_length, function)
        return cls(
            name=settings.name,
            storage=settings.name if settings.storage is None else settings.storage,
            digest_functions=settings.digest_functions,
            execution=settings.execution,
            result_writers=ResultWriters.SCHEDULER if settings.read_only else settings.result_writers,
            strict_results=settings.strict_results,
            read_only=settings.read_only,
            max_blob_bytes=settings.max_blob_bytes,
            by_hash_length=by_hash_length,
        )


class Instances:
    """The instances that this process serves, found by any of their names."""

    def __init__(self, settings: Sequence[InstanceSettings]) -> None:
        self._all = [Instance.from_settings(one) for one in settings]
        self._by_name: dict[str, Instance] = {}
        for one, instance in zip(settings, self._all, strict=True):
            for name in (one.name, *one.aliases):
                self._by_name[name] = instance
        self._by_name.setdefault("", self._all[0])

    def __iter__(self) -> Iterator[Instance]:
        return iter(self._all)

    def __getitem__(self, name: str) -> Instance:
        """Return the instance that clients call *name*.

        Raises:
            UnknownInstance: there is none.
        """
        try:
            return self._by_name[name]
        except KeyError:
            raise UnknownInstance(name, [instance.name for instance in self._all]) from None


class InstancesSettings(BaseModel):
    """The part of the settings file that every service reads alike."""

    instances: tuple[InstanceSettings, ...] = Field(default=(InstanceSettings(name="main"),), min_length=1)
    """The instances of the grid; the first is the default one."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [name for one in self.instances for name in (one.name, *one.aliases)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"the instance name {min(twice)!r} is given twice")
        return self
