"""The action cache that a command is about."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Protocol

import typer

from gridwright.digest import Digest
from gridwright.protos.gridwright.actioncache.v1 import operator_pb2 as pb
from gridwright_cli.cas.progress import Show

DirectoryOption = Annotated[
    Path | None,
    typer.Option(
        "--directory",
        metavar="DIR",
        help="The directory of an action cache on this machine, in place of an endpoint. One of lmdb may be in use.",
        show_default=False,
        exists=True,
        file_okay=False,
    ),
]


class ActionCachePlace(Protocol):
    """An action cache that can be reached: over gRPC, or in its directory.

    Every method raises what ``cas.endings.ending_well`` knows how to say.
    """

    #: Whether it can say which outputs are in the CAS.
    sees_outputs: bool

    @abstractmethod
    def explain(self, digest: Digest) -> pb.ExplainResponse:
        """Return what becomes of a question for a result, and what is stored."""
        ...

    @abstractmethod
    def remove(self, digests: Iterable[Digest]) -> int:
        """Remove results; return how many it was told to."""
        ...

    @abstractmethod
    def purge(self, what: pb.PurgeRequest, show: Show) -> pb.PurgeResponse:
        """Remove the results that *what* says; its instance is this place's."""
        ...
