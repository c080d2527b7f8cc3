"""How long actions wait for a worker that may never come."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gridwright_scheduler.queue.names import PlatformId
from gridwright_scheduler.queue.platform import Offer, Requirements, serves


class Patience:
    """Remembers since when nobody could serve which platform.

    A worker may be on its way (starting, or back in a moment), so an action that nobody
    can run waits for *grace_seconds* before it is refused (checklist EXE-27, PLAT-03).
    """

    def __init__(self, *, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._since: dict[PlatformId, float] = {}

    def exhausted(
        self, waiting: Mapping[PlatformId, Requirements], offers: Collection[Offer], now: float
    ) -> list[PlatformId]:
        """Return those of the platforms with *waiting* actions that none of *offers* has served for too long."""
        hopeless = [
            platform
            for platform, requirements in waiting.items()
            if not any(serves(offer, requirements) for offer in offers)
        ]
        self._since = {platform: self._since.get(platform, now) for platform in hopeless}
        return [platform for platform in hopeless if now - self._since[platform] >= self._grace_seconds]
