"""Envoy's admin pages, over its Unix socket."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from pathlib import Path
from urllib.parse import quote

_TIMEOUT_SECONDS = 2.0
#: Of its hundreds of statistics, those that say how calls fare.
_METRICS = (
    r"\.grpc\.|^http\.grpc\.downstream_(rq|cx)_|\.upstream_(rq|cx)_(active|total|retry|connect_fail)|^server\.live$"
)


class EnvoyAdmin:
    """Asks and tells a running Envoy; every method raises OSError or HTTPException when it does not answer."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def is_ready(self) -> bool:
        """Return whether it has all its listeners."""
        status, _ = await self._request("GET", "/ready")
        return status == http.client.OK

    async def port(self) -> int:
        """Return the TCP port of its first listener."""
        _, body = await self._request("GET", "/listeners?format=json")
        port: int = json.loads(body)["listener_statuses"][0]["local_address"]["socket_address"]["port_value"]
        return port

    async def metrics(self) -> bytes:
        """Return what it has counted, as Prometheus text: calls by method and outcome, connections, retries."""
        _, body = await self._request("GET", f"/stats/prometheus?usedonly&filter={quote(_METRICS)}")
        return body

    async def calls_in_flight(self, listener: str) -> int:
        """Return how many calls that came in by *listener* have not ended."""
        _, body = await self._request("GET", f"/stats?filter=^http\\.{listener}\\.downstream_rq_active$")
        return int(body.rpartition(b":")[2] or 0)

    async def drain(self) -> None:
        """Take no new connections, and have clients of the open ones make their next calls elsewhere (GOAWAY)."""
        await self._request("POST", "/healthcheck/fail")
        await self._request("POST", "/drain_listeners")

    async def quit(self) -> None:
        """Have it end at once."""
        await self._request("POST", "/quitquitquit")

    async def _request(self, method: str, url: str) -> tuple[int, bytes]:
        return await asyncio.to_thread(self._exchange, method, url)

    def _exchange(self, method: str, url: str) -> tuple[int, bytes]:
        connection = _UnixConnection(self._path)
        try:
            connection.request(method, url, headers={"Connection": "close"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("envoy", timeout=_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_SECONDS)
        self.sock.connect(str(self._path))
