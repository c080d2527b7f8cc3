"""The digests that a command is given, as arguments or on its standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Annotated

import typer

from gridwright.digest import Digest, DigestFunction
from gridwright.digest_text import parse_digest

FunctionOption = Annotated[
    str | None,
    typer.Option(
        "--digest-function",
        metavar="NAME",
        help="The digest function: " + ", ".join(function.name for function in DigestFunction) + ".",
        show_default="SHA256",
    ),
]
#: This argument stands for standard input.
STDIN = "-"


def function_of(name: str | None) -> DigestFunction | None:
    """Return the digest function of this name, or None where none was given.

    Raises:
        typer.BadParameter: there is none.
    """
    if name is None:
        return None
    try:
        return DigestFunction[name.upper()]
    except KeyError:
        known = ", ".join(function.name for function in DigestFunction)
        raise typer.BadParameter(f"{name!r} is none of {known}", param_hint="--digest-function") from None


def digest_of(text: str, function: DigestFunction | None) -> Digest:
    """Return the digest that *text* says.

    Raises:
        typer.BadParameter: it says none.
    """
    try:
        return parse_digest(text, function)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="DIGEST") from None


def digests_of(texts: Sequence[str], function: DigestFunction | None) -> Iterator[Digest]:
    """Yield the digests that *texts* say; "-" stands for those on standard input, the first word of each line."""
    for text in texts:
        if text != STDIN:
            yield digest_of(text, function)
            continue
        for line in sys.stdin:
            if words := line.split(maxsplit=1):
                yield digest_of(words[0], function)


def slices(digests: Iterable[Digest], size: int) -> Iterator[list[Digest]]:
    """Yield *digests* in lists of at most *size*."""
    rest = iter(digests)
    while some := list(islice(rest, size)):
        yield some
