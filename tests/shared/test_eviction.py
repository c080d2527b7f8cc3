"""Which blobs go first, as plain decisions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridwright.blobs.eviction import EvictionOrder, EvictionPolicy


def order_of(keys: str, **policy: int) -> EvictionOrder[str]:
    """Return an order that holds *keys*, ten bytes each, used at the seconds 0, 1, 2 and so on."""
    order: EvictionOrder[str] = EvictionOrder(EvictionPolicy(**policy))
    for at, key in enumerate(keys):
        order.add(key, 10, float(at))
    return order


def test_without_bounds_nothing_goes() -> None:
    assert order_of("abc").evict(1e12, coming_bytes=10**15, coming_count=10**6) == []


def test_the_least_recently_used_make_room() -> None:
    order = order_of("abc", max_bytes=30)
    assert order.touch("a", 5.0)
    assert order.evict(5.0, coming_bytes=11) == ["b", "c"]
    assert (len(order), order.used_bytes) == (1, 10)
    assert "a" in order


def test_what_fits_exactly_fits() -> None:
    order = order_of("ab", max_bytes=30)
    assert order.evict(2.0, coming_bytes=10) == []
    order.add("c", 10, 2.0)
    assert order.evict(2.0) == []


def test_once_it_is_too_much_more_goes_than_is_needed() -> None:
    order = order_of("abcde", max_bytes=50, evict_bytes=20)
    assert order.evict(5.0) == []
    assert order.evict(5.0, coming_bytes=1) == ["a", "b", "c"]


def test_what_comes_is_not_evicted_for_itself() -> None:
    order = order_of("abc", max_bytes=30, evict_bytes=25)
    assert order.evict(3.0, coming_bytes=28) == ["a", "b", "c"]
    order.add("d", 28, 3.0)
    assert order.evict(3.0) == []


def test_there_are_at_most_so_many() -> None:
    order = order_of("abcd", max_count=3)
    assert order.evict(4.0) == ["a"]
    assert order.evict(4.0, coming_count=1) == ["b"]


@pytest.mark.parametrize(("now", "gone"), [(10.0, ""), (10.5, "a"), (11.5, "ab"), (100.0, "abc")])
def test_what_was_not_used_for_too_long_goes(now: float, gone: str) -> None:
    assert order_of("abc", max_seconds=10).evict(now) == list(gone)


def test_a_use_keeps_from_expiring() -> None:
    order = order_of("abc", max_seconds=10)
    assert order.absent("axb", 8.0) == {"x"}
    assert order.evict(15.0) == ["c"]


def test_what_comes_again_counts_with_what_it_takes_now() -> None:
    order = order_of("ab")
    order.add("a", 3, 7.0)
    assert (len(order), order.used_bytes) == (2, 13)
    assert order.discard("a")
    assert not order.discard("a")
    assert not order.touch("a", 8.0)
    assert order.used_bytes == 10


@given(
    st.builds(
        EvictionPolicy,
        max_bytes=st.integers(0, 300),
        max_seconds=st.integers(0, 20),
        max_count=st.integers(0, 10),
        evict_bytes=st.integers(0, 100),
    ),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 120), st.booleans())),
)
def test_the_bounds_hold_whatever_happens(policy: EvictionPolicy, steps: list[tuple[int, int, bool]]) -> None:
    order: EvictionOrder[int] = EvictionOrder(policy)
    held: dict[int, int] = {}
    for now, (key, cost, adds) in enumerate(steps):
        if adds:
            gone = order.evict(now, coming_bytes=cost, coming_count=1)
            for one in gone:
                held.pop(one)
            order.add(key, cost, now)
            held[key] = cost
        else:
            assert order.touch(key, now) == (key in held)
        assert (len(order), order.used_bytes) == (len(held), sum(held.values()))
        if policy.max_bytes and cost <= policy.max_bytes and adds:
            assert order.used_bytes <= policy.max_bytes
        if policy.max_count:
            assert len(order) <= policy.max_count
