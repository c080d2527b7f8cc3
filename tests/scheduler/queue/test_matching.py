"""queue.matching and queue.platform: who gets what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridwright.digest import DigestFunction
from gridwright.errors import InvalidRequest
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright_scheduler.queue.matching import Assignment, Candidate, IdleWorker, foremost, match
from gridwright_scheduler.queue.names import ActionId, BotKey
from gridwright_scheduler.queue.patience import Patience
from gridwright_scheduler.queue.platform import (
    Offer,
    Requirements,
    platform_id,
    requirements_of,
    serves,
    why_nobody_serves,
)
from gridwright_scheduler.queue.property_rules import PropertyKind, PropertyRules, UnknownProperties, Wanted
from gridwright_scheduler.queue.validation import no_retry

LINUX = ("OSFamily", "linux")
X86 = ("ISA", "x86-64")
AVX2 = ("ISA", "x86-avx2")
RULES = PropertyRules(ignored={"chrootRootDigest"})


def offer(*properties: tuple[str, str], instance: str = "main", ours: bool = True) -> Offer:
    return Offer(instance, frozenset(properties), ours)


def needs(*properties: tuple[str, Wanted], instance: str = "main", ours_only: bool = False) -> Requirements:
    return Requirements(instance, tuple(sorted(properties)), ours_only)


def idle(name: str, *properties: tuple[str, str], slots: int = 1) -> IdleWorker:
    return IdleWorker(bot(name), offer(*properties), slots)


def bot(name: str) -> BotKey:
    return BotKey("main", name)


def queued(
    name: str, *properties: tuple[str, str], priority: int = 0, tag: float = 0.0, sequence: int = 0
) -> Candidate:
    return Candidate(priority, tag, sequence, ActionId(name), needs(*properties))


@given(st.data())
def test_a_platform_that_is_not_among_the_foremost_would_be_given_nothing(data: st.DataObject) -> None:
    wanted = {platform_id(one): one for one in (needs(), needs(LINUX), needs(X86), needs(AVX2), needs(LINUX, X86))}
    workers = data.draw(
        st.lists(
            st.builds(
                lambda number, has, slots: idle(f"w{number}", *has, slots=slots),
                st.integers(0, 99),
                st.sampled_from([(LINUX, X86), (LINUX,), (X86, AVX2), (LINUX, X86, AVX2)]),
                st.integers(1, 3),
            ),
            unique_by=lambda worker: worker.bot,
            max_size=4,
        )
    )
    waiting = [
        Candidate(priority, tag, sequence, ActionId(f"a{sequence}"), wanted[platform])
        for sequence, (priority, tag, platform) in enumerate(
            data.draw(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3), st.sampled_from(sorted(wanted)))))
        )
    ]
    heads = {
        platform: min(one[:3] for one in waiting if one.requirements == requirements)
        for platform, requirements in wanted.items()
        if any(one.requirements == requirements for one in waiting)
    }
    chosen = foremost(workers, wanted, heads)
    some = [one for one in waiting if platform_id(one.requirements) in chosen]
    assert match(workers, some) == match(workers, waiting)


def test_the_smaller_priority_then_the_smaller_tag_and_then_the_older_action_comes_first() -> None:
    waiting = [
        queued("late", tag=1.0, sequence=9),
        queued("lazy", priority=5, sequence=1),
        queued("early", tag=1.0, sequence=2),
        queued("fair", tag=0.5, sequence=20),
        queued("urgent", priority=-7, tag=7.0, sequence=10),
    ]
    assigned = match([idle("w", slots=4)], waiting)
    assert [one.action_id for one in assigned] == ["urgent", "fair", "early", "late"]


def test_no_worker_gets_more_than_it_has_room_for() -> None:
    assigned = match([idle("w", slots=2)], [queued(str(number), sequence=number) for number in range(5)])
    assert len(assigned) == 2


def test_equal_workers_take_turns() -> None:
    workers = [idle("a", slots=2), idle("b", slots=2)]
    assigned = match(workers, [queued(str(number), sequence=number) for number in range(4)])
    assert [one.bot.bot_id for one in assigned] == ["a", "b", "a", "b"]


def test_a_worker_that_can_do_more_is_kept_for_what_needs_it() -> None:
    workers = [idle("special", LINUX, ("gpu", "yes")), idle("plain", LINUX)]
    assigned = match(workers, [queued("any", LINUX, sequence=1), queued("gpu", ("gpu", "yes"), sequence=2)])
    assert assigned == [Assignment(bot("plain"), ActionId("any")), Assignment(bot("special"), ActionId("gpu"))]


def test_an_action_that_nobody_here_can_run_does_not_hold_up_those_behind_it() -> None:
    assigned = match([idle("w", LINUX)], [queued("mac", ("OSFamily", "macos")), queued("linux", LINUX, sequence=1)])
    assert [one.action_id for one in assigned] == ["linux"]


def test_many_workers_and_many_actions_are_matched_completely() -> None:
    workers = [idle(f"w{number}", LINUX, slots=3) for number in range(300)]
    assigned = match(workers, [queued(str(number), LINUX, sequence=number) for number in range(1000)])
    assert len(assigned) == 900
    assert len({one.action_id for one in assigned}) == 900


@pytest.mark.parametrize(
    ("offered", "needed", "served"),
    [
        (offer(LINUX, X86), needs(), True),  # PLAT-08
        (offer(), needs(), True),
        (offer(LINUX, X86), needs(LINUX), True),
        (offer(LINUX), needs(("OSFamily", "Linux")), False),  # PLAT-07
        (offer(LINUX, X86), needs(X86, AVX2), False),  # PLAT-05: every value of a repeated name
        (offer(LINUX, X86, AVX2), needs(X86, AVX2), True),
        (offer(LINUX), needs(("zzz", "1")), False),
        (offer(LINUX, instance="other"), needs(LINUX), False),
        (offer(LINUX, ours=False), needs(LINUX, ours_only=True), False),
        (offer(LINUX, ours=True), needs(LINUX, ours_only=True), True),
        (offer(("cpu_count", "8")), needs(("cpu_count", 8)), True),
        (offer(("cpu_count", "16")), needs(("cpu_count", 8)), True),
        (offer(("cpu_count", "4"), ("cpu_count", "9")), needs(("cpu_count", 8)), True),
        (offer(("cpu_count", "4")), needs(("cpu_count", 8)), False),
        (offer(("cpu_count", "many")), needs(("cpu_count", 8)), False),
        (offer(LINUX), needs(("cpu_count", 0)), False),
        (offer(LINUX), needs(("OSFamily", None)), True),
        (offer(LINUX), needs(("pool", None)), False),
    ],
)
def test_a_worker_serves_what_it_has_every_property_for(offered: Offer, needed: Requirements, served: bool) -> None:
    assert serves(offered, needed) is served


def test_the_platform_of_the_action_wins_over_that_of_the_command() -> None:
    """PLAT-01, PLAT-02."""
    command = pb.Command(platform=pb.Platform(properties=[{"name": "OSFamily", "value": "x"}]))
    action = pb.Action(platform=pb.Platform(properties=[{"name": "OSFamily", "value": "linux"}]))
    assert required(action, command).properties == (LINUX,)
    assert required(pb.Action(), command).properties == (("OSFamily", "x"),)


def test_the_order_of_properties_makes_no_difference_and_ignored_ones_make_none() -> None:
    def platform(*names: str) -> pb.Action:
        return pb.Action(platform=pb.Platform(properties=[{"name": name, "value": "1"} for name in names]))

    one = required(platform("b", "a", "chrootRootDigest"), pb.Command())
    other = required(platform("a", "b"), pb.Command())
    assert platform_id(one) == platform_id(other)


def test_what_is_a_minimum_must_be_a_number() -> None:
    def platform(value: str) -> pb.Action:
        return pb.Action(platform=pb.Platform(properties=[{"name": "cpu_count", "value": value}]))

    minimum = PropertyRules({"cpu_count": PropertyKind.MINIMUM})
    assert required(platform("8"), pb.Command(), rules=minimum).properties == (("cpu_count", 8),)
    assert required(platform("8"), pb.Command()).properties == (("cpu_count", "8"),)
    for value in ("", "-1", "many", "9" * 20):
        with pytest.raises(InvalidRequest, match="cpu_count is a number here"):
            required(platform(value), pb.Command(), rules=minimum)


def test_an_unknown_property_is_matched_refused_with_its_name_or_ignored() -> None:
    """PLAT-03."""
    action = pb.Action(platform=pb.Platform(properties=[{"name": "zzz", "value": "1"}]))
    kinds = {"ISA": PropertyKind.EXACT}
    assert required(action, pb.Command(), rules=PropertyRules(kinds)).properties == (("zzz", "1"),)
    ignoring = PropertyRules(kinds, unknown=UnknownProperties.IGNORE)
    assert required(action, pb.Command(), rules=ignoring).properties == ()
    refusing = PropertyRules(kinds, {"chrootRootDigest"}, UnknownProperties.REFUSE)
    with pytest.raises(InvalidRequest, match=r"'zzz' is unknown .* which knows ISA, chrootRootDigest, retry; leave"):
        required(action, pb.Command(), rules=refusing)
    known = [{"name": name, "value": "never"} for name in ("ISA", "chrootRootDigest", "retry")]
    action = pb.Action(platform=pb.Platform(properties=known))
    assert required(action, pb.Command(), rules=refusing).properties == (("ISA", "never"),)


def test_a_default_stands_for_a_property_that_an_action_does_not_name() -> None:
    rules = PropertyRules(defaults={"main": {"OSFamily": "linux", "ISA": "x86-64"}, "other": {"pool": "x"}})
    action = pb.Action(platform=pb.Platform(properties=[{"name": "ISA", "value": "arm64"}]))
    assert required(action, pb.Command(), rules=rules).properties == (("ISA", "arm64"), LINUX)
    assert required(pb.Action(), pb.Command(), rules=rules).properties == (X86, LINUX)


def test_an_action_may_ask_for_one_attempt_and_for_nothing_else() -> None:
    def platform(*values: str) -> pb.Action:
        return pb.Action(platform=pb.Platform(properties=[{"name": "retry", "value": value} for value in values]))

    assert no_retry(platform("never"), pb.Command())
    assert not no_retry(platform(), pb.Command())
    assert not required(platform("never"), pb.Command()).properties
    for values in (("",), ("always",), ("never", "twice")):
        with pytest.raises(InvalidRequest, match="retry is 'never', or left out"):
            no_retry(platform(*values), pb.Command())


def test_an_action_goes_to_another_worker_than_those_that_failed_it() -> None:
    again = queued("again", sequence=1)._replace(avoid=("a", "b"))
    behind = queued("behind", sequence=2)
    assert match([idle("a"), idle("b"), idle("c")], [again, behind]) == [
        Assignment(bot("c"), ActionId("again")),
        Assignment(bot("a"), ActionId("behind")),
    ]
    assert match([idle("a"), idle("c", LINUX)], [again]) == [Assignment(bot("c"), ActionId("again"))]
    assert match([idle("a"), idle("b")], [again, behind]) == [Assignment(bot("a"), ActionId("behind"))]


@pytest.mark.parametrize(
    ("function", "command", "ours_only"),
    [
        (DigestFunction.SHA256, pb.Command(output_paths=["out"]), False),
        (DigestFunction.BLAKE3, pb.Command(output_paths=["out"]), True),
        (DigestFunction.SHA256, pb.Command(output_files=["out"]), True),
        (DigestFunction.SHA256, pb.Command(output_directories=["out"]), True),
        (DigestFunction.SHA256, pb.Command(output_files=["out"], output_paths=["out"]), False),  # ACT-14
        (DigestFunction.SHA256, pb.Command(), False),
    ],
)
def test_stock_workers_get_only_what_they_understand(
    function: DigestFunction, command: pb.Command, ours_only: bool
) -> None:
    assert required(pb.Action(), command, function).ours_only is ours_only


@pytest.mark.parametrize(
    ("needed", "offers", "said"),
    [
        (needs(LINUX), [], "no worker is connected"),
        (needs(LINUX), [offer(LINUX, instance="other")], "no worker is connected"),
        (needs(("ISA", "nope")), [offer(X86)], "ISA=nope: workers offer x86-64"),
        (needs(("zzz", "1")), [offer(X86)], "zzz=1: no worker offers that property at all"),
        (needs(("cpu_count", 8)), [offer(("cpu_count", "4"))], "cpu_count>=8: workers offer 4"),
        (needs(("pool", None)), [offer(LINUX)], "pool, of any value: no worker offers that property at all"),
        (needs(LINUX, X86), [offer(LINUX), offer(X86)], "no single worker has all of"),
        (needs(LINUX, ours_only=True), [offer(LINUX, ours=False)], "output_paths"),
    ],
)
def test_the_reason_why_nobody_can_run_an_action_names_the_property(
    needed: Requirements, offers: list[Offer], said: str
) -> None:
    assert said in why_nobody_serves(needed, offers)


def test_patience_ends_when_nobody_has_come_for_long_enough() -> None:
    patience = Patience(grace_seconds=10)
    platform = platform_id(needs(LINUX))
    waiting = {platform: needs(LINUX)}
    assert patience.exhausted(waiting, [], 100) == []
    assert patience.exhausted(waiting, [], 109) == []
    assert patience.exhausted(waiting, [], 110) == [platform]


def test_patience_starts_anew_when_a_worker_has_been_there() -> None:
    patience = Patience(grace_seconds=10)
    platform = platform_id(needs(LINUX))
    waiting = {platform: needs(LINUX)}
    patience.exhausted(waiting, [], 100)
    patience.exhausted(waiting, [offer(LINUX)], 105)
    assert patience.exhausted(waiting, [], 111) == []
    assert patience.exhausted(waiting, [], 121) == [platform]


def required(
    action: pb.Action,
    command: pb.Command,
    function: DigestFunction = DigestFunction.SHA256,
    rules: PropertyRules = RULES,
) -> Requirements:
    return requirements_of(
        "main",
        function,
        action,
        command,
        rules=rules,
        stock_function=DigestFunction.SHA256,
    )
