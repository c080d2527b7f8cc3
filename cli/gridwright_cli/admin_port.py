"""The admin port of a service: /status, /metrics, and what it answers beside."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from gridwright.errors import NotFound, Unavailable
from gridwright.settings import Address

_SECONDS = 10.0


class AdminPort:
    """Asks the admin port at *address*: ``http://HOST:PORT``, ``HOST:PORT`` or ``unix:PATH``.

    Raises:
        ValueError: that is no address.
    """

    def __init__(self, address: str) -> None:
        self._address = Address.parse(address.removeprefix("http://").rstrip("/"))

    def status(self) -> dict[str, Any]:
        """Return what the service says of itself.

        Raises:
            Unavailable: it does not answer.
        """
        return self._object("/status")

    def answer(self, question: str, name: str) -> dict[str, Any]:
        """Return what the service answers to *question* about the thing *name*.

        Raises:
            NotFound: it does not know that thing.
            Unavailable: it does not answer.
        """
        return self._object(f"/{question}/{quote(name)}")

    def metrics(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield name (with labels) and value of the metrics whose names begin with *prefix*, but no buckets.

        Raises:
            Unavailable: it does not answer.
        """
        for line in self._page("/metrics").splitlines():
            name, _, value = line.rpartition(" ")
            if name.startswith(prefix) and "_bucket{" not in name and not name.split("{")[0].endswith("_created"):
                yield name, value

    def _object(self, path: str) -> dict[str, Any]:
        found = _object(self._page(path))
        if found is None:
            raise Unavailable(f"{self._address} is no admin port: its {path} is not one")
        return found

    def _page(self, path: str) -> str:
        connection = _Connection(self._address)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"cannot reach the admin port {self._address}: {error}") from None
        finally:
            connection.close()
        if response.status == http.client.NOT_FOUND and (reason := (_object(body) or {}).get("detail")):
            raise NotFound(str(reason))
        if response.status != 200:
            raise Unavailable(f"the admin port {self._address} answers {response.status} to {path}")
        return body


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


class _Connection(http.client.HTTPConnection):
    """HTTP to an address that may be a Unix socket."""

    def __init__(self, address: Address) -> None:
        self._unix_path = address.unix_path
        host, port = ("localhost", None) if self._unix_path else address.host_and_port
        super().__init__(host, port, timeout=_SECONDS)

    def connect(self) -> None:
        if self._unix_path is None:
            return super().connect()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_SECONDS)
        self.sock.connect(str(self._unix_path))
