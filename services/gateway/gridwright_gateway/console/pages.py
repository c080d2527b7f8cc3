"""The pages of the console."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from html import escape

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from gridwright.version import VERSION
from gridwright_gateway.console.status import ServiceStatus


@dataclass(frozen=True, slots=True)
class GridStatus:
    """What /status says."""

    version: str
    #: Where build tools connect.
    endpoint: str
    #: The names that they may use there; the first is the default.
    instances: tuple[str, ...]
    #: Whether all services are.
    up: bool
    services: tuple[ServiceStatus, ...]


def console_app(
    endpoint: str, instances: Sequence[str], services: Callable[[], Awaitable[tuple[ServiceStatus, ...]]]
) -> FastAPI:
    """Return the console of the grid at *endpoint*."""
    app = FastAPI(title="Gridwright", version=VERSION, docs_url=None, redoc_url=None)

    @app.get("/status")
    async def status() -> GridStatus:
        """How the grid is, for programs."""
        answers = await services()
        return GridStatus(VERSION, endpoint, tuple(instances), all(one.up for one in answers), answers)

    @app.get("/", response_class=HTMLResponse)
    async def page() -> str:
        """How the grid is, for people."""
        return _page(await status())

    return app


def _page(grid: GridStatus) -> str:
    names = ", ".join(f"<code>{escape(name) or '(the empty name)'}</code>" for name in grid.instances)
    rows = "\n".join(_row(one) for one in grid.services)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Gridwright{"" if grid.up else " – something is down"}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #ccc; vertical-align: top }}
.up {{ color: #17692c }} .down {{ color: #b3261e; font-weight: bold }}
</style>
</head>
<body>
<h1>Gridwright</h1>
<p>Version {escape(grid.version)}. Build tools connect to <code>{escape(grid.endpoint)}</code>; instances: {names}.</p>
<table>
<tr><th>Service</th><th>State</th><th>Answers in</th><th>Endpoint</th></tr>
{rows}
</table>
<p>The same for programs: <a href="/status">/status</a>.</p>
</body>
</html>
"""


def _row(one: ServiceStatus) -> str:
    state = '<span class="up">up</span>' if one.up else f'<span class="down">down</span>: {escape(one.reason)}'
    latency = "–" if one.latency_ms is None else f"{one.latency_ms:.1f} ms"
    return (
        f"<tr><td>{escape(one.name)}</td><td>{state}</td><td>{latency}</td>"
        f"<td><code>{escape(one.endpoint)}</code></td></tr>"
    )
