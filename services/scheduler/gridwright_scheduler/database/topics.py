"""What one scheduler tells the others that share its tables."""

from __future__ import annotations

from enum import StrEnum


class Topic(StrEnum):
    """What to look at; the tables say the rest, and a look too many does no harm."""

    #: Something is queued that the turn which says so has not given to a bot.
    QUEUE = "queue"
    #: An action has changed that somebody may watch elsewhere, or one of its operations was cancelled.
    ACTIONS = "actions"
    #: A lease was taken from a bot that may be another scheduler's.
    LEASES = "leases"
