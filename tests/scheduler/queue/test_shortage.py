"""What a queued action is told to wait for."""

from __future__ import annotations

from gridwright_scheduler.queue.platform import Offer, Requirements
from gridwright_scheduler.queue.shortage import Workers, shortage


def needs(*properties: tuple[str, str | int | None], ours_only: bool = False) -> Requirements:
    return Requirements("main", properties, ours_only)


def workers(
    *properties: tuple[str, str], connected: int = 1, healthy: int | None = None, free: int = 0, ours: bool = True
) -> Workers:
    offer = Offer("main", frozenset(properties), ours)
    return Workers(offer, connected, connected if healthy is None else healthy, free)


LINUX = ("OSFamily", "linux")
ARM = ("ISA", "arm")
X86 = ("ISA", "x86")


def test_without_workers_nobody_is_connected() -> None:
    found = shortage(needs(LINUX), [])
    assert (found.able, found.free, found.lacks_any, found.lacks_free) == (
        0,
        0,
        ("OSFamily=linux",),
        ("OSFamily=linux",),
    )
    assert found.why == "no worker is connected"


def test_a_property_that_no_worker_has_is_named_with_what_there_is() -> None:
    found = shortage(needs(ARM, LINUX), [workers(LINUX, X86, free=1)])
    assert (found.able, found.lacks_any) == (0, ("ISA=arm",))
    assert found.why == "no worker has the platform property ISA=arm: workers offer x86"


def test_of_busy_workers_the_property_is_named_that_no_free_one_has() -> None:
    found = shortage(needs(ARM, LINUX), [workers(LINUX, ARM, connected=3), workers(LINUX, X86, connected=9, free=4)])
    assert (found.able, found.free, found.lacks_any, found.lacks_free) == (3, 0, (), ("ISA=arm",))
    assert found.why == "3 workers could run it, and all are busy; no worker with room has ISA=arm"


def test_when_all_are_busy_no_property_is_to_blame() -> None:
    found = shortage(needs(LINUX), [workers(LINUX)])
    assert found.why == "1 worker could run it, and all are busy"
    assert found.lacks_free == ("OSFamily=linux",)


def test_free_workers_may_have_each_property_and_none_have_all() -> None:
    some = [workers(LINUX, ARM), workers(LINUX, free=1), workers(ARM, free=1)]
    found = shortage(needs(ARM, LINUX), some)
    assert found.lacks_free == ()
    assert found.why.endswith("no worker with room has all that it asks for")


def test_workers_that_take_no_work_are_told_apart_from_busy_ones() -> None:
    found = shortage(needs(LINUX), [workers(LINUX, connected=2, healthy=0)])
    assert (found.able, found.free) == (2, 0)
    assert found.why == "2 workers could run it, but take no work: unhealthy, or about to leave"


def test_a_free_worker_will_be_given_it() -> None:
    found = shortage(needs(LINUX), [workers(LINUX, connected=2, free=1)])
    assert (found.free, found.lacks_free) == (1, ())
    assert found.why == "1 worker with room for it will be given it in its turn"


def test_what_only_a_worker_of_ours_can_take_says_so() -> None:
    stock, ours = workers(LINUX, ours=False, free=1), workers(LINUX)
    found = shortage(needs(LINUX, ours_only=True), [stock])
    assert (found.ours_only, found.able, found.free) == (True, 0, 0)
    assert "run a Gridwright worker" in found.why
    found = shortage(needs(LINUX, ours_only=True), [stock, ours])
    assert (found.ours_only, found.able, found.free) == (True, 1, 0)
    assert "no worker with room is Gridwright's; only a Gridwright worker can take it" in found.why
