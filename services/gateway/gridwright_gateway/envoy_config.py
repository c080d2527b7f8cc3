"""Puts a rendered configuration where Envoy reads it, once Envoy has accepted it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import yaml

from gridwright.errors import ConfigurationError

#: It takes a twentieth of a second; the first time, a hundred megabytes of program are read from disk.
_VALIDATE_SECONDS = 30.0


async def write_validated(document: Mapping[str, object], directory: Path, *, program: Path) -> Path:
    """Write *document* into *directory* and return the file; a refused one stays beside it, to be looked at.

    Raises:
        ConfigurationError: Envoy refuses it; the text is Envoy's.
    """
    draft, config = directory / "envoy.new.yaml", directory / "envoy.yaml"
    draft.write_text(yaml.safe_dump(document, sort_keys=False, width=120))
    process = await asyncio.create_subprocess_exec(
        *(str(program), "--mode", "validate", "-c", str(draft), "--log-level", "error", "--log-format", "%v"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_VALIDATE_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()
        raise ConfigurationError(f"gateway: Envoy did not validate {draft} in {_VALIDATE_SECONDS:.0f} s") from None
    if process.returncode != 0:
        raise ConfigurationError(
            f"gateway: Envoy refuses the configuration made from these settings, {draft}:\n"
            f"{output.decode(errors='replace').strip()}"
        )
    draft.replace(config)
    return config
