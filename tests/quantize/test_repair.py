"""The repair search on arbitrary functions: its result was evaluated, and uses no more promotions than needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpudeploy.quantize.findings import PromotionCandidate, RepairOutcome, RepairReport
from bpudeploy.quantize.record import QuantizeRecord, Tap
from bpudeploy.quantize.repair import repair
from bpudeploy.quantize.slowdown import slowdown
from bpudeploy.spec.precision import Int16Cost, Precision

POINTS = st.integers(-10, 100).map(lambda n: n / 2)
STEPS = st.floats(0, 0.5)


def loop(
    drops: Sequence[float], costs: Sequence[float], max_drop: float, max_slowdown: float | None = None
) -> tuple[RepairReport, list[tuple[str, ...]]]:
    """Repair where n promotions drop ``drops[n]`` points and tap n costs ``costs[n]``; return what was evaluated."""
    taps = [PromotionCandidate(tap=f"t{i}", products=(f"p{i}",), error=1.0, cost=c) for i, c in enumerate(costs)]
    price = {c.tap: c.cost or 0.0 for c in taps}
    evaluated: list[tuple[str, ...]] = []

    def evaluate(chosen: tuple[str, ...]) -> float:
        evaluated.append(chosen)
        return drops[len(chosen)]

    found = repair(
        drops[0], max_drop, max_slowdown, 200, lambda: taps, evaluate, lambda t: 1.0 + sum(price[x] for x in t)
    )
    return found, evaluated


def functions(falling: bool) -> st.SearchStrategy[tuple[list[float], list[float]]]:
    def shaped(n: int) -> st.SearchStrategy[tuple[list[float], list[float]]]:
        drops = st.lists(POINTS, min_size=n + 1, max_size=n + 1)
        ordered = drops.map(lambda d: sorted(d, reverse=True)) if falling else drops
        return st.tuples(ordered, st.lists(STEPS, min_size=n, max_size=n))

    return st.integers(0, 70).flatmap(shaped)


def check(
    found: RepairReport, evaluated: list[tuple[str, ...]], drops: Sequence[float], max_slowdown: float | None
) -> None:
    """What holds for any function."""
    assert found.promoted in ((), *evaluated), "what is returned was itself evaluated"
    assert found.drop == drops[len(found.promoted)]
    assert found.holds == (found.outcome in (RepairOutcome.NOT_NEEDED, RepairOutcome.REPAIRED))
    assert (found.outcome is RepairOutcome.REPAIRED) <= bool(found.promoted)
    if max_slowdown is not None:
        assert all(t.slowdown <= max_slowdown for t in found.trials), "not even tried beyond the budget"
    n = len(found.ranked)
    assert len(evaluated) <= 2 * math.log2(max(n, 1)) + 3 and len(evaluated) == len(set(evaluated))
    assert [t.promoted for t in found.trials] == [0, *map(len, evaluated)]
    longest = max(evaluated, key=len, default=())
    assert all(chosen == longest[: len(chosen)] for chosen in evaluated), "each is the beginning of one order"
    if not found.holds:
        assert found.drop == min(t.drop for t in found.trials)
        assert len(found.promoted) == min(t.promoted for t in found.trials if t.drop == found.drop)


@given(functions(falling=True), POINTS)
def test_where_more_never_hurts_it_takes_the_fewest(made: tuple[list[float], list[float]], max_drop: float) -> None:
    drops, costs = made
    found, evaluated = loop(drops, costs, max_drop)
    check(found, evaluated, drops, None)
    enough = [n for n, drop in enumerate(drops) if drop <= max_drop]
    if enough:
        assert found.holds and len(found.promoted) == enough[0]
    else:
        assert found.outcome is (RepairOutcome.BEST_EFFORT if costs else RepairOutcome.NOT_POSSIBLE)


@given(functions(falling=False), POINTS, st.none() | st.floats(1, 4))
def test_its_report_is_true_for_any_function(
    made: tuple[list[float], list[float]], max_drop: float, max_slowdown: float | None
) -> None:
    drops, costs = made
    found, evaluated = loop(drops, costs, max_drop, max_slowdown)
    check(found, evaluated, drops, max_slowdown)
    if drops[0] <= max_drop:
        assert found.outcome is RepairOutcome.NOT_NEEDED and not evaluated and not found.ranked


def test_nothing_is_ranked_if_the_drop_is_within_the_limit() -> None:
    def never() -> tuple[PromotionCandidate, ...]:
        raise AssertionError("nothing is ranked")

    found = repair(1.0, 1.0, None, 200, never, lambda taps: 0.0, lambda taps: 1.0)
    assert (found.outcome, found.drop, found.slowdown, len(found.trials)) == (RepairOutcome.NOT_NEEDED, 1.0, 1.0, 1)


def test_candidates_above_the_slowdown_limit_are_skipped() -> None:
    found, evaluated = loop([9, 8, 1, 0], [0.1, 5.0, 0.2], 1, max_slowdown=1.5)
    assert found.promoted == ("t0", "t2") and found.slowdown == pytest.approx(1.3)
    assert evaluated == [("t0",), ("t0", "t2")]
    found, evaluated = loop([9, 0], [5.0], 1, max_slowdown=1.5)
    assert found.outcome is RepairOutcome.BEST_EFFORT and not evaluated and found.drop == 9 and len(found.ranked) == 1


def record() -> QuantizeRecord:
    def tap(precision: Precision, *products: str) -> Tap:
        return Tap(precision=precision, threshold=1, peak=1, products=products)

    taps = {
        "x": tap(Precision.INT8, "stem"),
        "q": tap(Precision.INT8, "qk"),
        "k": tap(Precision.INT8, "qk"),
        "p": tap(Precision.INT16, "pv"),
        "v": tap(Precision.INT8, "pv"),
        "y": tap(Precision.INT8, "up", "down"),
        "end": tap(Precision.FLOAT32),
    }
    return QuantizeRecord(observer="mse", images=1, taps=taps, products=("stem", "qk", "pv", "up", "down"))


def price(cost: float = 4.0) -> Callable[..., float]:
    macs = {"stem": 10, "qk": 20, "pv": 20, "up": 30, "down": 10, "on the cpu": 10}
    return lambda *taps: slowdown(record(), macs, Int16Cost(products=cost), taps)


def test_the_price_is_that_of_the_products_that_become_wide() -> None:
    before = 10 + 20 + 4 * 20 + 30 + 10 + 10
    of = price()
    assert of() == 1.0
    assert of("x") == pytest.approx((before + 3 * 10) / before)
    assert of("q") == of("k") == of("q", "k") == pytest.approx((before + 3 * 20) / before)
    assert of("v") == 1.0, "a product that reads int16 already costs nothing more"
    assert of("y") == pytest.approx((before + 3 * 40) / before)
    assert price(1.0)("x", "q", "y") == 1.0
    assert slowdown(record(), {}, Int16Cost(), ["x"]) == 1.0


@given(st.lists(st.sampled_from("xqkvy"), unique=True), st.sampled_from("xqkvy"))
def test_one_more_promotion_is_never_cheaper(taps: list[str], more: str) -> None:
    assert price()(*taps) <= price()(*taps, more)
