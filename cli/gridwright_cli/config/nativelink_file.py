"""A configuration file of NativeLink, as it is written: JSON5, with names of environment variables in its strings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import json5

from gridwright.errors import ConfigurationError
from gridwright_cli.config.findings import Findings

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<braced>\w+)(?::-(?P<default>[^}]*))?\}|(?P<bare>[A-Za-z_]\w*))")
_LINE = re.compile(r"<string>:(\d+) (.*)")


def read_nativelink_file(path: Path, environ: Mapping[str, str], findings: Findings) -> dict[str, Any]:
    """Return the document in the file at *path*, with the variables of *environ* in their places.

    Raises:
        ConfigurationError: the file cannot be read, or is not JSON5; the text names the line.
    """
    try:
        document = json5.loads(path.read_text(), allow_duplicate_keys=False)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not text in UTF-8") from None
    except (ValueError, RecursionError) as error:
        fault = _LINE.match(str(error))
        where = f"{path}, line {fault[1]}: {fault[2]}" if fault else f"{path}: {error}"
        raise ConfigurationError(f"not JSON5: {where}") from None
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path} must be a mapping of stores, schedulers, servers and workers")
    expanded: dict[str, Any] = _expanded(document, "", environ, findings)
    return expanded


def entries(document: object, path: str, findings: Findings, *, name: str = "name") -> list[dict[str, Any]]:
    """Return what is a list of mappings with a name each, and was a mapping by name in old files, as the former."""
    if document is None:
        return []
    if isinstance(document, Mapping):
        document = [{name: key, **value} for key, value in document.items() if isinstance(value, Mapping)]
    if isinstance(document, list) and all(isinstance(entry, dict) for entry in document):
        return document
    findings.fault(path, "is neither a list of mappings nor a mapping of mappings")
    return []


def _expanded(value: Any, path: str, environ: Mapping[str, str], findings: Findings) -> Any:
    match value:
        case dict():
            return {
                key: _expanded(inner, f"{path}.{key}" if path else key, environ, findings)
                for key, inner in value.items()
            }
        case list():
            return [_expanded(inner, f"{path}.{index}", environ, findings) for index, inner in enumerate(value)]
        case str():
            return _VARIABLE.sub(lambda match: _value_of(match, path, environ, findings), value)
        case _:
            return value


def _value_of(match: re.Match[str], path: str, environ: Mapping[str, str], findings: Findings) -> str:
    name = match["braced"] or match["bare"]
    if name is None:
        return "$"
    # As in a shell, an empty variable counts as none where there is a default.
    value = environ.get(name)
    if match["default"] is not None:
        return value or match["default"]
    if value is None:
        findings.fault(path, f"the environment variable {name} is not set")
        return ""
    return value
