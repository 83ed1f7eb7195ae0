"""Waves: which board is in which wave, which is skipped, and properties that hold for any fleet."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from bpudeploy.fleet.select import Selector, parse
from bpudeploy.fleet.waves import Layout, assign_waves, max_unavailable
from bpudeploy.spec.fleet import Fleet, FleetBoard, RolloutSpec, Wave

MARCHES = {"rdk-x3": "bernoulli2", "rdk-x5": "bayes-e", "rdk-s100": "nash-e"}
RELEASES = {"rdk-x3": "3" * 64, "rdk-x5": "5" * 64}


def fleet(*boards: str, waves: tuple[Wave, ...] = (), soak_seconds: float = 7.0) -> Fleet:
    """Return a fleet of boards such as ``a:rdk-x5:canary``."""
    made = {}
    for board in boards:
        name, target, *groups = board.split(":")
        made[name] = FleetBoard(address=f"h-{name}", target=target, groups=tuple(groups))
    return Fleet(boards=made, rollout=RolloutSpec(waves=waves, soak_seconds=soak_seconds))


def waves_of(layout: Layout) -> list[str]:
    found = [""] * len(layout.soaks)
    for plan in layout.plans:
        if plan.skipped is None:
            found[plan.wave] += plan.board
    return found


FIVE = ("a:rdk-x5", "b:rdk-x3:canary", "c:rdk-x5", "d:rdk-x5:canary", "e:rdk-x3")


def test_a_policy_without_waves_is_one_wave() -> None:
    layout = assign_waves(fleet(*FIVE), None, RELEASES, MARCHES)
    assert waves_of(layout) == ["abcde"]
    assert layout.approvals == () and layout.soaks == (7.0,) and layout.notes == ()


def test_each_wave_takes_from_what_no_earlier_one_has_and_the_rest_is_the_last() -> None:
    waves = (
        Wave(select="group=canary", soak_seconds=60),
        Wave(count=1, approve=True),
        Wave(percent=20, soak_seconds=0),
    )
    layout = assign_waves(fleet(*FIVE, waves=waves), None, RELEASES, MARCHES)
    assert waves_of(layout) == ["bd", "a", "c", "e"]
    assert layout.approvals == (1,) and layout.soaks == (60.0, 7.0, 0.0, 7.0)


def test_each_board_gets_what_is_built_for_its_target() -> None:
    layout = assign_waves(fleet(*FIVE), None, RELEASES, MARCHES)
    assert {p.board: p.release for p in layout.plans} == {b.split(":")[0]: RELEASES[b.split(":")[1]] for b in FIVE}


def test_a_board_for_whose_target_nothing_is_built_is_skipped_and_counts_for_nothing() -> None:
    layout = assign_waves(
        fleet("s:rdk-s100:canary", *FIVE, waves=(Wave(count=1), Wave(percent=40))), None, RELEASES, MARCHES
    )
    first = layout.plans[0]
    assert first.skipped == "no release for target rdk-s100" and first.release is None and first.board == "s"
    assert waves_of(layout) == ["a", "bc", "de"]


def test_boards_that_were_not_chosen_are_not_in_it() -> None:
    layout = assign_waves(fleet(*FIVE, waves=(Wave(percent=50),)), parse("chip=bayes-e,name!=d"), RELEASES, MARCHES)
    assert [p.board for p in layout.plans] == ["a", "c"] and waves_of(layout) == ["a", "c"]


def test_a_wave_without_boards_is_skipped_with_a_note() -> None:
    waves = (Wave(select="group=canary"), Wave(select="group=canary,target=rdk-x5"), Wave(count=9), Wave(percent=0.5))
    layout = assign_waves(fleet(*FIVE, waves=waves), None, RELEASES, MARCHES)
    assert waves_of(layout) == ["bd", "ace"]
    assert layout.notes == (
        "wave 2 of the policy (group=canary,target=rdk-x5) has no boards and is skipped",
        "wave 4 of the policy (0.5 %) has no boards and is skipped",
    )


def test_an_approval_is_asked_for_even_when_its_wave_is_left_out() -> None:
    waves = (Wave(count=1), Wave(select="group=nobody", approve=True))
    layout = assign_waves(fleet(*FIVE, waves=waves), None, RELEASES, MARCHES)
    assert waves_of(layout) == ["a", "bcde"] and layout.approvals == (1,)
    assert layout.notes[0].endswith("is skipped; the next wave needs its approval")


def test_nothing_to_update_is_no_wave() -> None:
    layout = assign_waves(fleet(*FIVE, waves=(Wave(count=1),)), None, {}, MARCHES)
    assert len(layout.plans) == 5 and all(p.skipped and p.wave == 0 for p in layout.plans) and layout.soaks == ()


def test_a_place_has_what_the_controller_needs() -> None:
    board = FleetBoard(address="sunrise@h:2", target="rdk-x5", jump="gate", board_id="12")
    (plan,) = assign_waves(Fleet(boards={"b": board}), None, RELEASES, MARCHES).plans
    assert (plan.address, plan.jump, plan.board_id, plan.target) == ("sunrise@h:2", "gate", "12", "rdk-x5")


def test_max_unavailable_is_rounded_up_and_one_at_least() -> None:
    asked: list[tuple[int | str, int]] = [
        (1, 10),
        (99, 10),
        ("10%", 100),
        ("10%", 101),
        ("10%", 3),
        ("1%", 0),
        ("100%", 7),
        ("29%", 100),
    ]
    assert [max_unavailable(share, boards) for share, boards in asked] == [1, 99, 10, 11, 1, 1, 7, 29]


# --- laws

targets = st.sampled_from(sorted(MARCHES))
groups = st.lists(st.sampled_from(["canary", "lab", "line"]), max_size=2, unique=True)
boards = st.lists(st.tuples(targets, groups), min_size=1, max_size=25)
selects = st.sampled_from(["group=canary", "group!=lab", "target=rdk-x5", "chip=nash-e", "name=b1*", "*"])
waves = st.lists(
    st.one_of(
        st.builds(Wave, select=selects, approve=st.booleans()),
        st.builds(Wave, count=st.integers(1, 6), approve=st.booleans(), soak_seconds=st.sampled_from([None, 1.0])),
        st.builds(Wave, percent=st.floats(0.01, 60), approve=st.booleans()),
    ),
    max_size=5,
).map(tuple)
releases = st.sets(targets).map(lambda built: {target: target * 2 for target in built})


def made(what: list[tuple[str, list[str]]], policy: tuple[Wave, ...], name: str = "b") -> Fleet:
    return fleet(*(":".join((f"{name}{i}", target, *has)) for i, (target, has) in enumerate(what)), waves=policy)


@given(boards, waves, releases, st.none() | selects.map(parse))
def test_every_chosen_board_is_in_one_wave_or_skipped_and_no_wave_is_empty(
    what: list[tuple[str, list[str]]], policy: tuple[Wave, ...], built: dict[str, str], chosen: Selector | None
) -> None:
    whole = made(what, policy)
    layout = assign_waves(whole, chosen, built, MARCHES)
    meant = [n for n, b in whole.boards.items() if chosen is None or chosen.matches(n, b, MARCHES[b.target])]
    assert [p.board for p in layout.plans] == meant
    for plan in layout.plans:
        assert (plan.skipped is None) == (plan.target in built) == (plan.release is not None)
        assert plan.release == built.get(plan.target)
    used = {p.wave for p in layout.plans if p.skipped is None}
    assert used == set(range(len(layout.soaks))) and set(layout.approvals) <= used
    assert len(layout.soaks) + len(layout.notes) - len(policy) in (0, 1)  # the rest is at most one more


@given(boards, waves, releases)
def test_counts_and_percentages_are_kept(
    what: list[tuple[str, list[str]]], policy: tuple[Wave, ...], built: dict[str, str]
) -> None:
    counted = tuple(w for w in policy if w.select is None)
    layout = assign_waves(made(what, counted), None, built, MARCHES)
    of = sum(p.skipped is None for p in layout.plans)
    left, expected = of, []
    for wave in counted:
        share = wave.count if wave.count is not None else math.ceil(Fraction(str(wave.percent)) * of / 100)
        assert share >= 1 or of == 0
        taken = min(left, share)
        left -= taken
        expected += [taken] if taken else []
    expected += [left] if left else []
    assert [sum(p.skipped is None and p.wave == i for p in layout.plans) for i in range(len(layout.soaks))] == expected


@given(boards, waves, releases)
def test_names_decide_nothing_but_what_selects_by_them(
    what: list[tuple[str, list[str]]], policy: tuple[Wave, ...], built: dict[str, str]
) -> None:
    unnamed = tuple(w for w in policy if w.select is None or "name" not in w.select)
    one, other = (assign_waves(made(what, unnamed, name), None, built, MARCHES) for name in ("b", "z"))
    assert [(p.wave, p.release, p.skipped) for p in one.plans] == [(p.wave, p.release, p.skipped) for p in other.plans]
    assert (one.approvals, one.soaks, one.notes) == (other.approvals, other.soaks, other.notes)


@given(boards, waves, releases)
def test_no_approval_that_the_policy_asks_for_is_lost(
    what: list[tuple[str, list[str]]], policy: tuple[Wave, ...], built: dict[str, str]
) -> None:
    layout = assign_waves(made(what, policy), None, built, MARCHES)
    for number, wave in enumerate(policy):
        before = assign_waves(made(what, policy[:number]), None, built, MARCHES)
        begun = number - len(before.notes)  # waves that somebody is in, before this one
        assert not wave.approve or begun == len(layout.soaks) or begun in layout.approvals
    assert len(layout.approvals) <= sum(wave.approve for wave in policy)


@given(st.integers(1, 100), st.integers(0, 500))
def test_a_percentage_is_the_least_number_that_is_not_below_it(percent: int, of: int) -> None:
    least = max_unavailable(f"{percent}%", of)
    assert least >= 1 and least * 100 >= percent * of and (least == 1 or (least - 1) * 100 < percent * of)
