"""Who may write an action cache, and who is believed to be the scheduler."""

from __future__ import annotations

import pytest

from gridwright.auth.authenticator import SERVICE_HEADER, LoopbackAuthenticator
from gridwright.auth.identity import ANONYMOUS, NOBODY, SCHEDULER, Role
from gridwright.auth.result_writers import ResultWriters, right_to_write

LOCAL, ELSEWHERE = "ipv4:127.0.0.1:4711", "ipv4:192.0.2.1:4711"
I_AM_THE_SCHEDULER = [(SERVICE_HEADER, "scheduler")]


@pytest.mark.parametrize(
    ("writers", "role", "right"),
    [
        (ResultWriters.SCHEDULER, Role.SCHEDULER, "scheduler"),
        (ResultWriters.SCHEDULER, Role.WRITER, None),
        (ResultWriters.SCHEDULER, Role.ADMIN, None),
        (ResultWriters.WRITERS, Role.SCHEDULER, "scheduler"),
        (ResultWriters.WRITERS, Role.WRITER, "writer"),
        (ResultWriters.WRITERS, Role.READER, None),
        (ResultWriters.ANYONE, Role.SCHEDULER, "scheduler"),
        (ResultWriters.ANYONE, Role.READER, "anyone"),
        (ResultWriters.ANYONE, Role.WORKER, None),
    ],
)
def test_the_right_to_write_is_that_of_the_instance(writers: ResultWriters, role: Role, right: str | None) -> None:
    assert right_to_write(writers, {role}) == right
    assert right_to_write(writers, set()) is None


def test_a_worker_never_writes_results() -> None:
    for writers in ResultWriters:
        assert right_to_write(writers, {Role.WORKER}) is None


def test_on_this_machine_the_scheduler_is_believed() -> None:
    authenticator = LoopbackAuthenticator()
    assert authenticator.authenticate(I_AM_THE_SCHEDULER, LOCAL) == SCHEDULER
    assert authenticator.authenticate(I_AM_THE_SCHEDULER, "unix:") == SCHEDULER
    assert authenticator.authenticate([(SERVICE_HEADER, "cas")], LOCAL) == ANONYMOUS
    assert authenticator.authenticate([], LOCAL) == ANONYMOUS


def test_from_elsewhere_it_is_not_unless_the_network_is_trusted() -> None:
    assert LoopbackAuthenticator().authenticate(I_AM_THE_SCHEDULER, ELSEWHERE) == NOBODY
    trusting = LoopbackAuthenticator(trust_network=True)
    assert trusting.authenticate(I_AM_THE_SCHEDULER, ELSEWHERE) == SCHEDULER


def test_local_callers_operate_the_grid_only_where_the_settings_say_so() -> None:
    assert Role.ADMIN not in LoopbackAuthenticator().authenticate([], LOCAL).roles
    operators = LoopbackAuthenticator(local_operators=True)
    assert operators.authenticate([], LOCAL).roles == ANONYMOUS.roles | {Role.ADMIN}
    assert operators.authenticate([], ELSEWHERE) == NOBODY
