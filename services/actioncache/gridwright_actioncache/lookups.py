"""What became of the questions for results, counted."""

from __future__ import annotations

from collections import Counter


class Lookups:
    """Counts hits, misses and failures per instance, as clients see them.

    Why a result was not found, its store knows; ``metrics`` puts the two together.
    """

    def __init__(self) -> None:
        self.hits: Counter[str] = Counter()
        self.misses: Counter[str] = Counter()
        #: Neither: what lies behind the store could not answer.
        self.failures: Counter[str] = Counter()
        #: Misses of results that no client could receive.
        self.too_large = 0
