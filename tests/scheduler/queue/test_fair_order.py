"""queue.fair_order: builds take turns, whatever each of them has queued."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridwright_scheduler.queue.fair_order import Flow, Line, Progress, tags_of
from gridwright_scheduler.queue.names import PlatformId

LINE = Line("main", PlatformId("linux"), 0)


class Slot:
    """One slot of one bot, and the line before it."""

    def __init__(self) -> None:
        self.given: list[str] = []
        self._queued: list[tuple[float, int, str]] = []
        self._furthest = 0.0
        self._sequence = 0

    def queue(self, build: str, number: int) -> None:
        """Let *build* queue *number* actions at once."""
        head = min(self._queued)[0] if self._queued else None
        ends = [tag for tag, _, other in self._queued if other == build]
        flow = Flow(LINE, build)
        progress = Progress(self._furthest, self._furthest, head)
        for tag in tags_of([flow] * number, lines={LINE: progress}, last={flow: max(ends)} if ends else {}):
            self._sequence += 1
            self._queued.append((tag, self._sequence, build))

    def cancel(self, build: str) -> None:
        """Take out what *build* has queued."""
        self._queued = [one for one in self._queued if one[2] != build]

    def run(self, number: int = 1) -> None:
        """Give *number* actions to the bot."""
        for tag, sequence, build in sorted(self._queued)[:number]:
            self._furthest = max(self._furthest, tag)
            self._queued.remove((tag, sequence, build))
            self.given.append(build)

    @property
    def waiting(self) -> set[str]:
        """The builds that have something queued."""
        return {build for _, _, build in self._queued}


def test_a_build_of_ten_is_not_kept_waiting_by_one_of_a_thousand() -> None:
    slot = Slot()
    slot.queue("large", 1000)
    slot.run(5)
    slot.queue("small", 10)
    slot.run(25)
    assert Counter(slot.given[5:])["small"] == 10
    assert "small" in slot.given[5:8]


@pytest.mark.parametrize(("shorts_per_two_runs", "expected"), [(1, 49), (2, 12), (4, 5)])
def test_builds_of_one_action_that_keep_coming_do_not_starve_a_long_one(
    shorts_per_two_runs: int, expected: int
) -> None:
    """Each round is longer than the one before if they come faster than they are done, and each has an end."""
    slot = Slot()
    slot.queue("long", 100)
    for number in range(50):
        for which in range(shorts_per_two_runs):
            slot.queue(f"short {number} {which}", 1)
        slot.run(2)
    assert slot.given.count("long") >= expected


def test_a_build_that_did_nothing_for_a_while_has_no_credit_and_no_debt() -> None:
    slot = Slot()
    slot.queue("idle", 3)
    slot.run(3)
    slot.queue("busy", 100)
    slot.run(50)
    slot.queue("idle", 20)
    slot.run(40)
    assert abs(slot.given[53:].count("idle") - slot.given[53:].count("busy")) <= 1


def test_a_build_pays_nothing_for_what_it_has_cancelled() -> None:
    slot = Slot()
    slot.queue("hasty", 500)
    slot.cancel("hasty")
    slot.queue("other", 100)
    slot.run(10)
    slot.queue("hasty", 10)
    slot.run(21)
    assert slot.given.count("hasty") == 10


def test_a_flow_is_behind_what_was_given_and_behind_itself() -> None:
    flow = Flow(LINE, "build")
    progress = Progress(given=7.0, given_anywhere=9.0, head=None)
    assert tags_of([flow, flow], lines={LINE: progress}, last={}) == [10.0, 11.0]
    progress = progress._replace(head=8.0)
    assert tags_of([flow, flow], lines={LINE: progress}, last={flow: 20.0}) == [21.0, 22.0]


def test_the_line_of_a_slow_pool_goes_by_its_own_pace() -> None:
    """Else whoever came to it would stand behind all that waits in it."""
    slow = Progress(given=3.0, given_anywhere=90_000.0, head=4.0)
    assert tags_of([Flow(LINE, "new")], lines={LINE: slow}, last={}) == [4.0]


def test_a_line_in_which_nobody_waits_goes_on_from_where_the_others_are() -> None:
    """Else it would come first for bots that serve several, until it had caught up."""
    idle = Progress(given=3.0, given_anywhere=90.0, head=None)
    assert tags_of([Flow(LINE, "new")], lines={LINE: idle}, last={}) == [91.0]
    # And so do those who come next, while that one waits.
    then = idle._replace(head=91.0)
    assert tags_of([Flow(LINE, "next")], lines={LINE: then}, last={}) == [91.0]


def test_one_that_is_queued_again_takes_nobody_with_it_to_the_front() -> None:
    again = Progress(given=50.0, given_anywhere=50.0, head=4.0)
    assert tags_of([Flow(LINE, "new")], lines={LINE: again}, last={}) == [51.0]


BUILDS = st.sampled_from(["a", "b", "c", "d"])
STEPS = st.one_of(
    st.tuples(st.just("queue"), BUILDS, st.integers(1, 40)),
    st.tuples(st.just("cancel"), BUILDS, st.just(0)),
    st.tuples(st.just("run"), st.just(""), st.integers(1, 40)),
)


@given(st.lists(STEPS, max_size=40))
def test_of_two_builds_that_both_wait_neither_is_given_two_more_than_the_other(
    steps: list[tuple[str, str, int]],
) -> None:
    slot = Slot()
    both = {pair: Counter[str]() for pair in combinations("abcd", 2)}
    for what, build, number in steps:
        for _ in range(number if what == "run" else 1):
            if what == "queue":
                slot.queue(build, number)
            elif what == "cancel":
                slot.cancel(build)
            before = len(slot.given)
            if what == "run":
                slot.run()
            for pair, counts in both.items():
                if not slot.waiting.issuperset(pair):
                    counts.clear()
                    continue
                counts.update(one for one in slot.given[before:] if one in pair)
                assert abs(counts[pair[0]] - counts[pair[1]]) <= 2


@given(st.lists(BUILDS, min_size=1, max_size=50), st.floats(0, 1e9), st.floats(0, 1e9))
def test_the_actions_of_a_flow_stand_in_the_order_in_which_they_came(
    builds: list[str], given_here: float, last: float
) -> None:
    flows = [Flow(LINE, build) for build in builds]
    progress = Progress(given_here, given_here, None)
    tags = tags_of(flows, lines={LINE: progress}, last={Flow(LINE, "a"): last})
    for build in set(builds):
        own = [tag for tag, flow in zip(tags, flows, strict=True) if flow.invocation == build]
        assert own == sorted(set(own))
        assert own[0] > given_here
    assert all(tag > last for tag, flow in zip(tags, flows, strict=True) if flow.invocation == "a")
