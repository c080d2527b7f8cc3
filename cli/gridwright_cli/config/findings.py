"""What a translation has to say about the file that it read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Findings:
    """Notes of what was ignored or changed, and faults, which no translation comes of; each with its path."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.faults: list[str] = []

    def note(self, path: str, why: str) -> None:
        """Say that something was left out or became something else, and why."""
        self.notes.append(f"{path}: {why}")

    def fault(self, path: str, why: str) -> None:
        """Say that something cannot be translated, and why."""
        self.faults.append(f"{path}: {why}")

    @contextmanager
    def keys_of(self, document: object, path: str) -> Iterator[Keys]:
        """Give the keys of *document* away while the block runs; what nobody took is noted at its end."""
        if not isinstance(document, Mapping):
            self.fault(path, "is not a mapping")
            document = {}
        keys = Keys(document, path, self)
        yield keys
        keys.note_the_rest()


class Keys:
    """One mapping of the file, whose keys are taken one by one."""

    def __init__(self, document: Mapping[str, Any], path: str, findings: Findings) -> None:
        self._left = {key: value for key, value in document.items() if value is not None}
        self.path = path
        self._findings = findings

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._left))

    def take(self, key: str, *old_names: str) -> Any:
        """Return the value of *key*, which may go by one of its *old_names*; None: it is not there."""
        found = [self._left.pop(name) for name in (key, *old_names) if name in self._left]
        return found[0] if found else None

    def mapping(self, key: str) -> dict[str, Any]:
        """Return the mapping under *key*, which is empty if there is none."""
        found = self.take(key)
        if found is not None and not isinstance(found, dict):
            self._findings.fault(f"{self.path}.{key}", "is not a mapping")
        return found if isinstance(found, dict) else {}

    def copy(self, *keys: str) -> dict[str, Any]:
        """Take *keys*, and return those that are there."""
        return {key: value for key in keys if (value := self.take(key)) is not None}

    def ignore(self, why: str, *keys: str) -> None:
        """Leave *keys* out, with a note for those that are there."""
        for key in keys:
            if key in self._left:
                del self._left[key]
                self._findings.note(f"{self.path}.{key}", f"ignored: {why}")

    def note_the_rest(self) -> None:
        """Note what nobody took."""
        for key in self._left:
            self._findings.note(f"{self.path}.{key}", "ignored: Gridwright has nothing of this name")
        self._left = {}
