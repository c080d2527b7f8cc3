"""In which order the actions of one priority are given to bots: fair queueing.

Theory of operation. What one build has queued for one platform is a flow, and the flows of a platform that have one
priority are a line. Each action gets a tag when it is queued, and the smallest tag is next. The actions of a flow are
one apart, so flows take turns, however long each of them is. The largest tag that was given to a bot is how far the
line has come. A flow that has nothing queued begins one behind that: beside the heads of the others, and after those of
them that are older, or else builds of one action that keep coming would let nobody else through. So a flow gets no
credit for having been idle, and pays for nothing that was cancelled.

Lines are those of platforms, because pools of bots differ: in a line of the whole instance the quick pool would take
the tags far beyond what waits for the slow one, and whoever comes to that would stand behind all of it. Bots that serve
several platforms compare the tags of their lines, though, so a line of which nothing is queued goes on from where the
furthest line of the instance is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gridwright_scheduler.queue.names import PlatformId


class Line(NamedTuple):
    """Flows that stand in one order."""

    instance: str
    platform: PlatformId
    priority: int


class Flow(NamedTuple):
    """What one build has queued in a line."""

    line: Line
    #: The tool_invocation_id of its calls; those that sent none are one build.
    invocation: str


class Progress(NamedTuple):
    """How far a line has come."""

    #: The largest tag that was given to a bot.
    given: float = 0.0
    #: The same, of all lines of the instance that have this priority.
    given_anywhere: float = 0.0
    #: The smallest tag that is queued; None: nothing is.
    head: float | None = None

    @property
    def reached(self) -> float:
        """The tag behind which a flow begins that has nothing queued."""
        # Between what was given and the head nobody waits.
        return max(self.given, self.given_anywhere if self.head is None else self.head - 1.0)


def tags_of(arrivals: Sequence[Flow], *, lines: Mapping[Line, Progress], last: Mapping[Flow, float]) -> Sequence[float]:
    """Return the tags of actions that are queued now, in this order, each in its flow.

    *last* is the largest tag that is queued of each flow, where there is one.
    """
    ends = dict(last)
    tags = []
    for flow in arrivals:
        tag = 1.0 + max(lines[flow.line].reached, ends.get(flow, 0.0))
        ends[flow] = tag
        tags.append(tag)
    return tags
