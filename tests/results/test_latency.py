"""Latencies in rounds: coverage of the intervals, with and without differences between rounds."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpudeploy.results.latency import frames_for, latency_of, mean_of, percentile

MS = st.floats(0.01, 1e4, allow_nan=False)
ROUNDS = st.lists(st.lists(MS, min_size=1, max_size=30), min_size=2, max_size=30)


def rounds(seed: int, between: float = 0.0, n: int = 30, k: int = 20) -> list[list[float]]:
    rng = random.Random(seed)
    return [[10 + shift + rng.gauss(0, 0.2) for _ in range(n)] for shift in (rng.gauss(0, between) for _ in range(k))]


@settings(deadline=None)  # the first loads scipy
@given(ROUNDS, st.sampled_from([0.5, 0.9, 0.99]))
def test_an_interval_contains_its_value_and_its_ends_are_samples(made: list[list[float]], q: float) -> None:
    found, every = percentile(made, q), sorted(ms for one in made for ms in one)
    assert found.value in every and found.low in every and found.low <= found.value
    assert found.high is None or (found.high in every and found.value <= found.high)
    assert sum(ms <= found.value for ms in every) >= q * len(every)


@settings(deadline=None)
@given(ROUNDS)
def test_the_order_of_rounds_and_frames_does_not_matter(made: list[list[float]]) -> None:
    other = [list(reversed(one)) for one in reversed(made)]
    assert percentile(made, 0.9) == percentile(other, 0.9)


def test_differences_between_rounds_widen_the_interval() -> None:
    alike, differing = (percentile(rounds(3, between), 0.5) for between in (0.0, 1.0))
    assert alike.high is not None and differing.high is not None
    assert differing.high - differing.low > 3 * (alike.high - alike.low)


def test_too_few_frames_give_no_upper_bound_of_p99() -> None:
    assert frames_for(0.99) == 368 and frames_for(0.9) == 36
    few, many = percentile(rounds(1, n=5), 0.99), percentile(rounds(1, n=100), 0.99)
    assert few.high is None and many.high is not None


def test_two_rounds_suffice_for_an_interval_of_the_median() -> None:
    found = latency_of([[10.0, 10.1], [11.0, 11.1]]).p50_ms
    assert found.low < 10.0 and found.high > 11.1, "of two rounds, hardly anything is known"


def test_a_latency_summarizes_all_frames() -> None:
    found = latency_of([[1.0, 2.0], [3.0, 4.0]], batch=2)
    assert (found.frames, found.min_ms, found.max_ms, found.mean_ms, found.fps) == (4, 1.0, 4.0, 2.5, 800.0)
    assert found.std_ms == pytest.approx(statistics.stdev([1, 2, 3, 4]))
    means = latency_of([[1.0, 2.0], [3.0, 4.0]], per_sample=50)
    assert means.frames == 200 and means.p90_ms is None and means.p99_ms is None, "means tell nothing of a tail"


@pytest.mark.parametrize("made", [[], [[1.0]], [[1.0], []]])
def test_an_interval_needs_two_rounds(made: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="two rounds"):
        latency_of(made)


def test_the_interval_of_a_mean_is_students() -> None:
    found = mean_of([4.9, 5.1, 5.0, 5.2, 4.8])
    assert (found.value, found.low, found.high) == pytest.approx((5.0, 4.80368, 5.19632), abs=1e-5)


@pytest.mark.parametrize("between", [0.0, 0.2])
def test_coverage_of_the_intervals(between: float) -> None:
    """The truth is known here; the whole table: python -m benchmarks.coverage_of_intervals."""
    truth = statistics.NormalDist(10, (between**2 + 0.2**2) ** 0.5)
    runs = 300
    for q in (0.5, 0.9, 0.99):
        covered = 0
        for seed in range(runs):
            found = percentile(rounds(seed, between), q)
            covered += found.low <= truth.inv_cdf(q) and (found.high is None or truth.inv_cdf(q) <= found.high)
        assert covered / runs > 0.92, f"{q}: {covered} of {runs}"
