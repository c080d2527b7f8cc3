"""`gridwright ac why`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from gridwright.digest import DigestFunction
from gridwright.protos.gridwright.actioncache.v1 import operator_pb2 as pb
from gridwright_cli.ac.place import DirectoryOption
from gridwright_cli.ac.places import place_of
from gridwright_cli.ac.words import provenance_line
from gridwright_cli.cas.digests import FunctionOption, digest_of, function_of
from gridwright_cli.cas.endings import EXIT_BAD, ending_well
from gridwright_cli.cas.plain import count
from gridwright_cli.remote import DEFAULT_INSTANCE, DEFAULT_REMOTE, InstanceOption, RemoteOption

_REASONS = {
    pb.ExplainResponse.ABSENT: "nothing is stored for this action; was it built elsewhere, or evicted?",
    pb.ExplainResponse.MALFORMED: "what is stored is no result, or names a directory that is none",
    pb.ExplainResponse.EXPIRED: "what is stored is too old (`expiring` in the settings of the action cache)",
}


def why(
    digest: Annotated[str, typer.Argument(metavar="DIGEST", help="The digest of an action, HASH/SIZE.")],
    remote: RemoteOption = DEFAULT_REMOTE,
    instance: InstanceOption = DEFAULT_INSTANCE,
    directory: DirectoryOption = None,
    digest_function: FunctionOption = None,
) -> None:
    """Say whether an action is a hit or a miss, and why: of a miss, which blobs the CAS lacks.

    Exit status: 0 for a hit, 1 for a miss; 121 if the endpoint cannot be reached, 122 if it refuses, 125 if
    the directory is no action cache's.
    """
    action = digest_of(digest, function_of(digest_function))
    with ending_well():
        place = place_of(remote, instance, directory)
        answer = place.explain(action)
        for line in _lines(answer, action.function, sees_outputs=place.sees_outputs):
            print(line)
        if answer.verdict != pb.ExplainResponse.HIT:
            raise typer.Exit(EXIT_BAD)


def _lines(answer: pb.ExplainResponse, function: DigestFunction, *, sees_outputs: bool) -> Iterator[str]:
    if answer.verdict == pb.ExplainResponse.HIT:
        yield (
            "hit"
            if sees_outputs
            else "stored; whether its outputs are in the CAS, only the endpoint can say (--remote)"
        )
    elif answer.verdict == pb.ExplainResponse.INCOMPLETE:
        yield f"miss: the CAS lacks {count(answer.missing_blobs, 'blob')} that the result names"
    else:
        yield f"miss: {_REASONS.get(answer.verdict, 'for a reason that this version does not know')}"
    if answer.verdict != pb.ExplainResponse.ABSENT:
        yield provenance_line(answer)
    prefix = "blake3/" if function is DigestFunction.BLAKE3 else ""
    for missing in answer.missing_blob_digests:
        yield f"missing {prefix}{missing.hash}/{missing.size_bytes}"
    if answer.missing_blobs > len(answer.missing_blob_digests):
        yield f"and {count(answer.missing_blobs - len(answer.missing_blob_digests), 'other')}"
