"""Latencies in rounds: percentiles and throughput, with intervals that know that frames of one round are alike.

Frames that follow each other share a temperature, a clock, a neighbour. An interval that takes them as independent
is too narrow. So each round is a cluster, as in a survey: the variance is taken between rounds.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Sequence
from functools import cache

from bpudeploy.results.measurement import Interval, Latency, Percentile

_LEVEL = 0.95
_CAUTION = 0.1
"""The variance between rounds is itself estimated from few rounds: its upper 90 % bound is used."""


def percentile(rounds: Sequence[Sequence[float]], q: float) -> Percentile:
    """Return the quantile ``q`` of all frames with a 95 % interval, open above where too little was measured.

    Woodruff's interval (JASA 47, 1952): the share of frames below the quantile has an interval, and its ends are read
    off the frames in order. The share is that of a sample in clusters: as many independent frames as give the same
    variance (Kish's design effect, never below 1, with the variance's upper bound), whose order statistics then bound
    the quantile without any assumption on the distribution (David and Nagaraja, Order Statistics, 7.1). How often the
    intervals hold the truth: ``python -m benchmarks.coverage_of_intervals``.

    Args:
        rounds: milliseconds, one sequence a round, at least two rounds of at least one frame.
    """
    ordered = sorted(ms for one in rounds for ms in one)
    n = len(ordered)
    value = ordered[min(n, max(1, math.ceil(q * n))) - 1]
    independent = _independent(rounds, value, q)
    low, high = _ranks(independent, q)
    first = math.floor((low or 0) / independent * n)
    last = min(n, math.ceil(high / independent * n)) if high is not None else None
    return Percentile(value=value, low=ordered[max(1, first) - 1], high=ordered[last - 1] if last is not None else None)


def frames_for(q: float) -> int:
    """Return how many independent frames bound the quantile ``q`` from above too; 368 for p99."""
    return next(n for n in range(2, 1_000_000) if None not in _ranks(n, q))


def _independent(rounds: Sequence[Sequence[float]], value: float, q: float) -> int:
    """Return the number of independent frames that would tell as much about the share of frames up to ``value``."""
    from scipy.special import gammaincinv

    n, k = sum(map(len, rounds)), len(rounds)
    below = [bisect.bisect_right(sorted(one), value) for one in rounds]
    share = sum(below) / n
    between = k / (k - 1) * sum((b - len(one) * share) ** 2 for b, one in zip(below, rounds, strict=True)) / n**2
    bound = between * (k - 1) / (2 * float(gammaincinv((k - 1) / 2, _CAUTION)))
    effect = max(1.0, bound / (q * (1 - q) / n))
    return max(1, int(n / effect))


@cache
def _ranks(n: int, q: float) -> tuple[int | None, int | None]:
    """Return 1-based ranks of two order statistics of n that hold the quantile in 95 %; None: there is none."""
    from scipy.special import bdtr

    tail = (1 - _LEVEL) / 2
    low = bisect.bisect_right(range(n + 1), tail, key=lambda k: float(bdtr(k, n, q)))
    high = bisect.bisect_left(range(n + 1), 1 - tail, key=lambda k: float(bdtr(k, n, q))) + 1
    return low or None, high if high <= n else None


def mean_of(values: Sequence[float]) -> Interval:
    """Return a mean with Student's 95 % interval, of values that are independent (one a round), at least two."""
    n = len(values)
    mean = math.fsum(values) / n
    half = _t(n - 1) * math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return Interval(value=mean, low=mean - half, high=mean + half)


def _t(degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 1 - (1 - _LEVEL) / 2))


def latency_of(rounds: Sequence[Sequence[float]], batch: int = 1, per_sample: int = 1) -> Latency:
    """Summarise single-stream latencies in ms of frames of ``batch`` images; each sample is a mean of ``per_sample``.

    Where there are so few rounds that nothing bounds the median of all frames, its interval is Student's over the
    rounds' own medians.

    Raises:
        ValueError: fewer than two rounds, or an empty one.
    """
    if len(rounds) < 2 or not all(rounds):
        raise ValueError("a spread needs two rounds of frames")
    samples = [ms for one in rounds for ms in one]
    n = len(samples)
    mean = math.fsum(samples) / n
    half = percentile(rounds, 0.50)
    median = mean_of([statistics.median(one) for one in rounds])
    if half.high is not None:
        median = Interval(value=half.value, low=half.low, high=half.high)
    single = per_sample == 1  # of means, nothing is known of single frames but their middle
    return Latency(
        p50_ms=median,
        p90_ms=percentile(rounds, 0.90) if single else None,
        p99_ms=percentile(rounds, 0.99) if single else None,
        mean_ms=mean,
        std_ms=math.sqrt(math.fsum((x - mean) ** 2 for x in samples) / (n - 1)),
        min_ms=min(samples),
        max_ms=max(samples),
        frames=n * per_sample,
        fps=1000 * batch / mean,
    )
