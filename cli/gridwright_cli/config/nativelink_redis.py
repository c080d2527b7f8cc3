"""The address of a Redis as NativeLink has it, and as we have it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import parse_qs, quote, urlsplit

_SCHEME = re.compile(r"(?P<tls>rediss?)(?:[+-](?P<topology>sentinel|cluster))?")
#: What the sentinels' master is called unless the address says so.
_MASTER = "master"


def redis_url(addresses: Sequence[object], mode: object) -> str:
    """Return our address for *addresses*, which name more servers, and the master, behind a ``?``.

    Raises:
        ValueError: saying what cannot be translated.
    """
    if not addresses:
        raise ValueError("required, and not given")
    users: list[str] = []
    hosts: list[str] = []
    found: list[tuple[str, str]] = []
    path, master = "", ""
    for address in addresses:
        parts = urlsplit(str(address))
        match = _SCHEME.fullmatch(parts.scheme)
        if match is None:
            raise ValueError(f"the scheme {parts.scheme!r} is not known; write redis:// or rediss://")
        found.append((match["tls"], match["topology"] or ""))
        user, _, host = parts.netloc.rpartition("@")
        query = parse_qs(parts.query)
        users += [user] * bool(user)
        hosts += [host, *query.get("node", ())]
        path = path or parts.path.strip("/")
        master = master or next(iter(query.get("sentinelServiceName", ())), "")
    tls, topology = found[0]
    if mode in ("sentinel", "cluster"):
        topology = str(mode)
    if topology == "":
        if len(hosts) > 1:
            raise ValueError("there are several servers; write mode: cluster or mode: sentinel")
        return f"{tls}://{_user(users)}{hosts[0]}{f'/{path}' if path else ''}"
    if topology == "cluster":
        return f"{tls}+cluster://{_user(users)}{','.join(hosts)}"
    steps = [quote(master or _MASTER, safe=""), *([path] if path.isdecimal() else [])]
    return f"{tls}+sentinel://{_user(users)}{','.join(hosts)}/{'/'.join(steps)}"


def _user(users: Sequence[str]) -> str:
    return f"{users[0]}@" if users else ""
