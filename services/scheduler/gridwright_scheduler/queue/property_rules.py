"""What the platform properties that actions name mean, by their names."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from enum import StrEnum

from gridwright.errors import InvalidRequest

#: What an action wants of a property: this value, at least this number, or (None) any value.
Wanted = str | int | None
#: The property by which an action says whether it may be tried again; it is for us, and never matched.
RETRY = "retry"
#: Of a number that a property may ask for: 2^63 and some.
_MAX_DIGITS = 19
_MAX_NAMES = 20


class PropertyKind(StrEnum):
    """How what an action asks for is compared with what a worker offers."""

    EXACT = "exact"
    MINIMUM = "minimum"
    PRIORITY = "priority"
    IGNORE = "ignore"


class UnknownProperties(StrEnum):
    """What becomes of properties that no rule names."""

    EXACT = "exact"
    REFUSE = "refuse"
    IGNORE = "ignore"


@dataclass(frozen=True, slots=True)
class PropertyRules:
    """How an operator wants the properties of actions to be taken."""

    kinds: Mapping[str, PropertyKind] = field(default_factory=dict)
    #: For the runner, whatever the kinds say: passed through, and not matched.
    ignored: Set[str] = frozenset()
    unknown: UnknownProperties = UnknownProperties.EXACT
    #: By instance, the values of properties that an action does not name.
    defaults: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def wanted(self, name: str, value: str) -> tuple[str, Wanted] | None:
        """Return what a worker must offer for an action with this property; None: nothing (checklist PLAT-03).

        Raises:
            InvalidRequest: the property is unknown, or must be a number and is none.
        """
        if name in self.ignored or name == RETRY:
            return None
        match self.kinds.get(name):
            case PropertyKind.MINIMUM:
                return name, _number(name, value)
            case PropertyKind.PRIORITY:
                return name, None
            case PropertyKind.IGNORE:
                return None
            case PropertyKind.EXACT:
                return name, value
        if self.unknown is UnknownProperties.REFUSE:
            raise InvalidRequest(
                f"the platform property {name[:100]!r} is unknown to this grid, which knows {self._known()}; leave it "
                "out, or have it named in scheduler.platform_properties",
                field="platform.properties",
            )
        return (name, value) if self.unknown is UnknownProperties.EXACT else None

    def _known(self) -> str:
        names = sorted({*self.kinds, *self.ignored, RETRY})
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        return ", ".join(names[:_MAX_NAMES]) + more


def is_number(value: str) -> bool:
    """Whether *value* is a number as those properties have it of which a worker must offer enough."""
    return value.isascii() and value.isdecimal() and len(value) <= _MAX_DIGITS


def _number(name: str, value: str) -> int:
    if not is_number(value):
        raise InvalidRequest(
            f"the platform property {name} is a number here, not {value!r}", field="platform.properties"
        )
    return int(value)
