"""``python -m gridwright_cas.maintenance COMMAND DIRECTORY …``: see the package."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from gridwright.digest import Digest, DigestFunction
from gridwright.digest_text import parse_digest
from gridwright.errors import ConfigurationError, GridwrightError, InvalidRequest, Unavailable
from gridwright_cas.maintenance.compaction import Compaction
from gridwright_cas.maintenance.listing import ls
from gridwright_cas.maintenance.messages import Messages
from gridwright_cas.maintenance.removal import rm
from gridwright_cas.maintenance.statistics import stats
from gridwright_cas.maintenance.stopping import Stop, Stopped
from gridwright_cas.maintenance.store_directory import find_store, open_directory
from gridwright_cas.maintenance.transfer import get, put
from gridwright_cas.maintenance.verification import Verification

# Exit statuses; those of `gridwright` are the same.
_REFUSED = 122
_FAILED = 123
_NO_DIRECTORY = 125
_STOPPED = 130


def main() -> None:
    """Run one command, and end with its status."""
    arguments = _parser().parse_args()
    messages = Messages(sys.stdout)
    stop = Stop()
    try:
        with stop.on_signals():
            _run(arguments, messages, stop)
            sys.stdout.flush()
        return
    except (Stopped, BrokenPipeError):
        status = _STOPPED
        # What is still in the buffer, nobody wants to read.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ConfigurationError, Unavailable) as error:
        status = _NO_DIRECTORY
        messages.say("error", str(error))
    except (ValueError, InvalidRequest) as error:
        status = _REFUSED
        messages.say("error", str(error))
    except GridwrightError as error:
        status = _FAILED
        messages.say("error", str(error))
    except OSError as error:
        status = _NO_DIRECTORY
        messages.say("error", f"{error.filename or 'the output'}: {error.strerror}")
    sys.exit(status)


def _run(arguments: argparse.Namespace, messages: Messages, stop: Stop) -> None:
    path = find_store(arguments.directory, arguments.storage_domain)
    if arguments.command == "put":
        put(path, dict(_pairs(arguments.files)), messages, stop)
        return
    with open_directory(path) as directory:
        match arguments.command:
            case "stats":
                stats(directory, messages, stop)
            case "verify":
                Verification(directory, messages, stop, repair=arguments.repair).run()
            case "compact":
                Compaction(directory, messages, stop, live_below=arguments.live_below).run()
            case "ls":
                ls(directory, messages, stop, function=arguments.digest_function, prefix=arguments.prefix)
            case "get":
                get(directory, messages, stop, parse_digest(arguments.digest), arguments.to_fd)
            case "rm":
                rm(directory, messages, stop, _digests(arguments.digests, arguments.digest_function))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gridwright_cas.maintenance")
    commands = parser.add_subparsers(dest="command", required=True)
    command = {name: commands.add_parser(name) for name in ("stats", "verify", "compact", "ls", "get", "put", "rm")}
    for one in command.values():
        one.add_argument("directory", type=Path)
        one.add_argument("--storage-domain")
    for name in ("ls", "rm"):
        command[name].add_argument("--digest-function", type=DigestFunction.__getitem__)
    command["verify"].add_argument("--repair", action="store_true")
    command["compact"].add_argument("--live-below", type=int, default=50, help="percent")
    command["ls"].add_argument("--prefix", default="")
    command["get"].add_argument("digest")
    command["get"].add_argument("--to-fd", type=int, required=True)
    command["put"].add_argument("files", nargs="*", metavar="DIGEST FILE")
    command["rm"].add_argument("digests", nargs="*", help="- for a list on stdin")
    return parser


def _pairs(texts: Sequence[str]) -> Iterator[tuple[Digest, Path]]:
    for digest, file in zip(texts[::2], texts[1::2], strict=True):
        yield parse_digest(digest), Path(file)


def _digests(texts: Sequence[str], function: DigestFunction | None) -> Iterator[Digest]:
    for text in texts:
        if text != "-":
            yield parse_digest(text, function)
            continue
        for line in sys.stdin:
            if words := line.split(maxsplit=1):
                yield parse_digest(words[0], function)


if __name__ == "__main__":
    main()
