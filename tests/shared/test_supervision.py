import pytest

from gridwright.supervision import STEADY_SECONDS, GiveUp, Restart, after_exit, describe_exit


def test_a_killed_service_is_back_at_once() -> None:
    assert after_exit(-9, ran_seconds=3600, deaths=0) == Restart(0.1, deaths=1)


def test_the_delay_doubles_with_each_death_in_a_row_up_to_ten_seconds() -> None:
    delays = []
    deaths = 0
    for _ in range(9):
        decision = after_exit(1, ran_seconds=0.5, deaths=deaths)
        assert isinstance(decision, Restart)
        delays.append(decision.delay_seconds)
        deaths = decision.deaths
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10]


def test_a_service_that_was_well_for_a_while_starts_a_new_count() -> None:
    assert after_exit(1, ran_seconds=STEADY_SECONDS, deaths=7) == Restart(0.1, deaths=1)


def test_the_delay_stays_bounded_after_thousands_of_deaths() -> None:
    assert after_exit(1, ran_seconds=0, deaths=10_000) == Restart(10, deaths=10_001)


def test_settings_that_cannot_be_used_are_not_tried_again() -> None:
    assert after_exit(78, ran_seconds=0.5, deaths=0) == GiveUp()


def test_a_service_that_ends_by_itself_without_an_error_is_restarted_too() -> None:
    assert after_exit(0, ran_seconds=1, deaths=0) == Restart(0.1, deaths=1)


@pytest.mark.parametrize(
    ("status", "words"), [(0, "exit 0"), (1, "exit 1"), (-9, "killed by SIGKILL"), (-100, "killed by signal 100")]
)
def test_an_exit_is_described_in_words(status: int, words: str) -> None:
    assert describe_exit(status) == words
