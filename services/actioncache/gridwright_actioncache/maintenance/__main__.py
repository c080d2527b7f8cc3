"""``python -m gridwright_actioncache.maintenance COMMAND DIRECTORY …``: see the package."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from base64 import b64encode
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from google.protobuf.message import Message

from gridwright.digest import Digest
from gridwright.digest_text import parse_digest
from gridwright.errors import ConfigurationError, GridwrightError
from gridwright.protos.gridwright.actioncache.v1 import operator_pb2 as pb
from gridwright_actioncache.maintenance.store_directory import open_store
from gridwright_actioncache.results.provenance import split_document
from gridwright_actioncache.results.purge import Condemned, revoke
from gridwright_actioncache.results.store import PAGE_RESULTS, ResultStore

# Exit statuses; those of `gridwright` are the same.
_REFUSED = 122
_FAILED = 123
_NO_DIRECTORY = 125
_STOPPED = 130


def main() -> None:
    """Run one command, and end with its status."""
    arguments = _parser().parse_args()
    try:
        asyncio.run(_run(arguments))
        return
    except (asyncio.CancelledError, KeyboardInterrupt, BrokenPipeError):
        # What is still in the buffer, nobody wants to read.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = _STOPPED
    except ConfigurationError as error:
        status = _NO_DIRECTORY
        _say("error", str(error))
    except ValueError as error:
        status = _REFUSED
        _say("error", str(error))
    except GridwrightError as error:
        status = _FAILED
        _say("error", str(error))
    sys.exit(status)


async def _run(arguments: argparse.Namespace) -> None:
    task = asyncio.current_task()
    assert task is not None
    # Between two pages everything is whole, and within one as well: the store sees to that.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with open_store(arguments.directory) as store:
        match arguments.command:
            case "explain":
                await _explain(store, arguments.instance, parse_digest(arguments.digest))
            case "remove":
                await _remove(store, arguments.instance, arguments.digests)
            case "purge":
                condemned = Condemned(arguments.worker, arguments.subject, arguments.since, arguments.until)
                await _purge(store, arguments.instance, condemned, dry_run=arguments.dry_run)


async def _explain(store: ResultStore, instance: str, digest: Digest) -> None:
    document = (await store.explain(instance, digest)).document
    if document is None:
        _answer(pb.ExplainResponse(verdict=pb.ExplainResponse.ABSENT))
        return
    result, provenance = split_document(document)
    _answer(
        pb.ExplainResponse(
            verdict=pb.ExplainResponse.HIT,
            action_result=result,
            provenance=None if provenance is None else provenance.message,
        )
    )


async def _remove(store: ResultStore, instance: str, texts: Sequence[str]) -> None:
    digests = _digests(texts)
    while some := list(islice(digests, PAGE_RESULTS)):
        await store.remove(instance, some)
    _answer(pb.RemoveResponse())


async def _purge(store: ResultStore, instance: str, condemned: Condemned, *, dry_run: bool) -> None:
    if condemned.is_everything:
        raise ValueError("say which results are to go: by worker, subject, since or until")
    answer = pb.PurgeResponse()
    async for page in store.walk(instance):
        answer.examined += len(page)
        answer.removed += await revoke(store, instance, page, condemned, dry_run=dry_run)
        _say("progress", {"what": "examining", "done": answer.examined, "total": None, "unit": "results"})
    _answer(answer)


def _digests(texts: Sequence[str]) -> Iterator[Digest]:
    for text in texts:
        if text != "-":
            yield parse_digest(text)
            continue
        for line in sys.stdin:
            if words := line.split(maxsplit=1):
                yield parse_digest(words[0])


def _answer(message: Message) -> None:
    _say("answer", b64encode(message.SerializeToString()).decode())


def _say(about: str, what: object) -> None:
    print(json.dumps({about: what}), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gridwright_actioncache.maintenance")
    commands = parser.add_subparsers(dest="command", required=True)
    command = {name: commands.add_parser(name) for name in ("explain", "remove", "purge")}
    for one in command.values():
        one.add_argument("directory", type=Path)
        one.add_argument("--instance", required=True)
    command["explain"].add_argument("digest")
    command["remove"].add_argument("digests", nargs="+", help="- for a list on stdin")
    for name in ("worker", "subject"):
        command["purge"].add_argument(f"--{name}", default="")
    for name in ("since", "until"):
        command["purge"].add_argument(f"--{name}", type=float, metavar="UNIX_SECONDS")
    command["purge"].add_argument("--dry-run", action="store_true")
    return parser


if __name__ == "__main__":
    main()
