"""queue.leases: what a bot says against what it was given."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gridwright_scheduler.queue.leases import MAX_OFFERS, Given, LeaseState, reconcile
from gridwright_scheduler.queue.names import LeaseId

LEASE = LeaseId("main/1")
FRESH = Given(offers=0, reports=0)
OFFERED = Given(offers=1, reports=0)
RUNNING = Given(offers=1, reports=3)


@pytest.mark.parametrize(
    ("given", "reported", "where"),
    [
        ({LEASE: OFFERED}, {LEASE: LeaseState.ACTIVE}, "kept"),
        ({LEASE: OFFERED}, {LEASE: LeaseState.PENDING}, "kept"),
        ({LEASE: RUNNING}, {LEASE: LeaseState.PENDING}, "kept"),  # BOT-12
        ({LEASE: RUNNING}, {LEASE: LeaseState.ACTIVE}, "kept"),
        ({LEASE: RUNNING}, {LEASE: LeaseState.COMPLETED}, "completed"),
        ({LEASE: OFFERED}, {LEASE: LeaseState.COMPLETED}, "completed"),
        ({}, {LEASE: LeaseState.COMPLETED}, "superfluous"),  # BOT-14, BOT-30
        ({}, {LEASE: LeaseState.ACTIVE}, "dropped"),
        ({}, {LEASE: LeaseState.CANCELLED}, "dropped"),  # repeated until it is dropped
        ({LEASE: RUNNING}, {LEASE: LeaseState.CANCELLED}, "given_up"),
        ({LEASE: FRESH}, {}, "offered_again"),  # BOT-13: the answer was lost
        ({LEASE: OFFERED}, {}, "offered_again"),
        ({LEASE: Given(offers=MAX_OFFERS, reports=0)}, {}, "given_up"),
        ({LEASE: RUNNING}, {}, "given_up"),
    ],
)
def test_each_lease_has_one_meaning(
    given: Mapping[LeaseId, Given], reported: Mapping[LeaseId, int], where: str
) -> None:
    found = reconcile(given, reported)
    assert {name for name, leases in found._asdict().items() if leases} == {where}
    assert getattr(found, where) == (LEASE,)


def test_nothing_given_and_nothing_reported_means_nothing() -> None:
    assert not any(reconcile({}, {}))
