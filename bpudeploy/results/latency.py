"""Percentiles and throughput of latencies measured in rounds, with confidence intervals.

Frames of one round are correlated: they share a temperature, a clock and other load. An interval that takes them as
independent is too narrow. Each round is therefore a cluster, and the variance is taken between rounds.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Sequence
from functools import cache

from bpudeploy.results.measurement import Interval, Latency, Percentile

_TAIL = (1 - 0.95) / 2
_CAUTION = 0.1
"""The variance between rounds is itself estimated from few rounds: its upper 90 % bound is used."""


def percentile(rounds: Sequence[Sequence[float]], q: float) -> Percentile:
    """Return the quantile ``q`` of all frames with a 95 % interval, without an upper end if there are too few frames.

    Woodruff's interval for cluster samples (JASA 47, 1952): the number of frames is divided by Kish's design effect
    (at least 1, from the upper bound of the variance), and the order statistics of so many independent frames bound
    the quantile without an assumption about the distribution (David and Nagaraja, Order Statistics, 7.1). Coverage:
    ``python -m benchmarks.coverage_of_intervals``.

    Args:
        rounds: milliseconds, one sequence per round; at least two rounds of at least one frame.
    """
    ordered = sorted(ms for one in rounds for ms in one)
    n = len(ordered)
    value = quantile(ordered, q)
    independent = _independent(rounds, value, q)
    low, high = _ranks(independent, q)
    first = math.floor((low or 0) / independent * n)
    last = min(n, math.ceil(high / independent * n)) if high is not None else None
    return Percentile(value=value, low=ordered[max(1, first) - 1], high=ordered[last - 1] if last is not None else None)


def quantile(samples: Sequence[float], q: float) -> float:
    """Return the smallest sample that at least the share ``q`` of all samples does not exceed."""
    n = len(samples)
    return sorted(samples)[min(n, max(1, math.ceil(q * n))) - 1]


def frames_for(q: float) -> int:
    """Return how many independent frames bound the quantile ``q`` on both sides; 368 for p99."""
    return math.ceil(math.log(_TAIL) / math.log(max(q, 1 - q)))


def _independent(rounds: Sequence[Sequence[float]], value: float, q: float) -> int:
    """Return the effective sample size for the share of frames up to ``value``."""
    from scipy.stats import chi2

    n, k = sum(map(len, rounds)), len(rounds)
    below = [bisect.bisect_right(sorted(one), value) for one in rounds]
    share = sum(below) / n
    between = k / (k - 1) * sum((b - len(one) * share) ** 2 for b, one in zip(below, rounds, strict=True)) / n**2
    bound = between * (k - 1) / float(chi2.ppf(_CAUTION, k - 1))
    effect = max(1.0, bound / (q * (1 - q) / n))
    return max(1, int(n / effect))


@cache
def _ranks(n: int, q: float) -> tuple[int | None, int | None]:
    """Return the 1-based ranks of the order statistics of n that bound the quantile at 95 %; None: unbounded."""
    from scipy.stats import binom

    low, high = (int(rank) for rank in binom.ppf([_TAIL, 1 - _TAIL], n, q))
    return low or None, high + 1 if high < n else None


def mean_of(values: Sequence[float]) -> Interval:
    """Return the mean of at least two independent values (one per round) with Student's 95 % interval."""
    from scipy.stats import t

    n, mean = len(values), statistics.fmean(values)
    half = float(t.ppf(1 - _TAIL, n - 1)) * statistics.stdev(values, mean) / math.sqrt(n)
    return Interval(value=mean, low=mean - half, high=mean + half)


def latency_of(rounds: Sequence[Sequence[float]], batch: int = 1, per_sample: int = 1) -> Latency:
    """Summarize single-stream latencies.

    If there are too few rounds for an interval of the median of all frames, it is Student's interval over the medians
    of the rounds.

    Args:
        rounds: milliseconds per frame.
        batch: images per frame.
        per_sample: frames that each sample is the mean of.

    Raises:
        ValueError: fewer than two rounds, or an empty one.
    """
    if len(rounds) < 2 or not all(rounds):
        raise ValueError("a spread needs two rounds of frames")
    samples = [ms for one in rounds for ms in one]
    mean = statistics.fmean(samples)
    p50 = percentile(rounds, 0.50)
    median = mean_of([statistics.median(one) for one in rounds])
    if p50.high is not None:
        median = Interval(value=p50.value, low=p50.low, high=p50.high)
    single = per_sample == 1  # means of frames do not show the tail
    return Latency(
        p50_ms=median,
        p90_ms=percentile(rounds, 0.90) if single else None,
        p99_ms=percentile(rounds, 0.99) if single else None,
        mean_ms=mean,
        std_ms=statistics.stdev(samples, mean),
        min_ms=min(samples),
        max_ms=max(samples),
        frames=len(samples) * per_sample,
        fps=1000 * batch / mean,
    )
