"""Find lasting changes of level in a series, given the nights up to now.

ruptures proposes change points (its exact least-squares segmentation: Truong, Oudre and Vayatis, Signal Processing 167,
2020); the joint fit of ``level_fit`` verifies them: the weakest is removed until all that remain are significant. A
significant step

- is at least ``at_least``;
- has 6 valid nights before it, 3 on its old level, and 3 on its new one that agree with each other: one or two
  outliers are not a change;
- is enough standard errors high, by Student's t and with boards, temperature and drift accounted for. The threshold,
  sqrt(2 log(e horizon / nights)) plus ``Limits.margin``, is higher for a short level than for a long one, as there are
  more short ones to test (Frick, Munk and Sieling, JRSS B 76, 2014);
- passes a rank test as well (Mann and Whitney, Ann. Math. Stat. 18, 1947), exact for independent noise of any shape:
  with bimodal or heavy-tailed noise, a few slow nights in a row are no evidence if earlier nights had the same values.

The limits were chosen on separate seeds (``python -m benchmarks.detectors --tune``). Error rates and power on other
seeds are in docs/explanation/regressions.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bpudeploy.nightly.level_fit import DesignMatrix, Fit, Floats, design_matrix, fit, robust_std
from bpudeploy.nightly.series import Scale, Series
from bpudeploy.results.measurement import Interval

_BEFORE = 6
_AFTER = 3
MIN_NIGHTS = _BEFORE + _AFTER
"""Judged nights that are required."""
_AGREE = 3.0  # standard deviations
_PENALTY = 9.0  # variances that a proposal must explain
_PASSES = 3


@dataclass(frozen=True)
class Limits:
    """Significance limits of a change (see docs/explanation/regressions.md)."""

    margin: float = 0.8
    """Standard errors in addition to the correction for multiple tests in ``horizon`` nights."""
    horizon: float = 1000.0
    rank_p: float = 2e-3
    """Largest two-sided p-value of the rank test; with 3 nights on the new level that requires 17 before."""


LIMITS = Limits()


@dataclass(frozen=True)
class ChangePoint:
    """A lasting change of level, without the effects of boards, temperature and drift."""

    first: int
    """Index of the first point on the new level: the first bad night of a regression."""
    last_before: int
    """Index of the last judged point on the old level."""
    before: float
    after: float
    size: Interval
    """From before to after, in percent of before or in points, with its 95 % interval."""
    regression: bool


def find_change_points(series: Series, limits: Limits = LIMITS) -> tuple[ChangePoint, ...]:
    """Return the significant changes of a series in chronological order.

    Deterministic; about 5 ms for 150 nights, below 0.1 s for 1,000.

    >>> from datetime import datetime, timedelta, timezone
    >>> from bpudeploy.nightly.series import Point
    >>> begin = datetime(2026, 1, 1, tzinfo=timezone.utc)
    >>> values = [10.0, 10.1, 9.9, 10.0] * 5 + [10.6, 10.5, 10.7]
    >>> nights_ = tuple(Point(begin + timedelta(days=n), ms, "board-1") for n, ms in enumerate(values))
    >>> series = Series(nights_, Scale.RATIO, higher_is_worse=True, at_least=1.0)
    >>> [(c.first, c.regression) for c in find_change_points(series)]
    [(20, True)]
    """
    judged = [index for index, point in enumerate(series.points) if not point.invalid]
    if len(judged) < MIN_NIGHTS:
        return ()
    data = design_matrix([series.points[index] for index in judged], series.scale, series.at_least)
    firsts: list[int] = []
    found = fit(data, firsts)
    for _ in range(_PASSES):
        proposed = sorted(set(_propose(data.y - found.explained, data.floor)))
        kept, found = _significant(data, proposed, series, limits)
        if kept == firsts:
            break
        firsts = kept
    return tuple(_change(series, judged, found, firsts, number) for number in range(len(firsts)))


def latest_regression(found: Sequence[ChangePoint]) -> ChangePoint | None:
    """Return the latest regression of a series' change points that persists, or None.

    It does not persist if the last change reversed at least half of it.
    """
    for change in reversed(found):
        if change.regression and (found[-1].after - change.before) / (change.after - change.before) > 0.5:
            return change
    return None


def _propose(levels: Floats, floor: float) -> list[int]:
    """Return the steps that ruptures finds after single outliers are clipped."""
    from ruptures import KernelCPD

    middle = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(levels, 2, mode="reflect"), 5), axis=1)
    sigma = robust_std(levels - middle, floor)
    calm = np.clip(levels, middle - 2 * sigma, middle + 2 * sigma)
    ends: list[int] = KernelCPD(kernel="linear", min_size=_AFTER).fit(calm[:, None]).predict(pen=_PENALTY * sigma**2)
    return ends[:-1]


def _significant(data: DesignMatrix, proposed: Sequence[int], series: Series, limits: Limits) -> tuple[list[int], Fit]:
    """Remove the weakest insignificant proposal until all that remain are significant."""
    firsts = list(proposed)
    while True:
        found = fit(data, firsts)
        margins = _margins(found, firsts, series, limits)
        weak = [i for i, margin in enumerate(margins) if margin < 0]
        weak = weak or [i for i in range(len(firsts)) if _rank_p(found, firsts, i) > limits.rank_p]
        if not weak:
            return firsts, found
        del firsts[min(weak, key=lambda i: margins[i])]


def _margins(found: Fit, firsts: Sequence[int], series: Series, limits: Limits) -> list[float]:
    """Return by how many standard errors each step exceeds its threshold; negative: not significant."""
    from scipy.special import ndtri, stdtr

    t = np.abs(found.steps) / np.maximum(found.errors, 1e-12)
    scores = -ndtri(np.maximum(stdtr(found.degrees_of_freedom, -t), 1e-300))  # of the same p-value as t
    edges = [0, *firsts, len(found.residuals)]
    margins = []
    for number, score in enumerate(scores):
        start, first, end = edges[number : number + 3]
        agree = int(np.sum(np.abs(found.residuals[first:end]) <= _AGREE * found.sigma))
        few = first < _BEFORE or min(first - start, agree) < _AFTER
        small = abs(_in_scale(float(found.steps[number]), series.scale)) < series.at_least
        need = limits.margin + math.sqrt(2 * math.log(math.e * limits.horizon / min(first - start, end - first)))
        margins.append(-math.inf if few or small else float(score) - need)
    return margins


def _rank_p(found: Fit, firsts: Sequence[int], number: int) -> float:
    """Return the two-sided p-value of the rank test between the nights after a step and the noise before it."""
    from scipy.stats import mannwhitneyu

    first, end = [*firsts, len(found.residuals)][number : number + 2]
    new = found.residuals[first:end] + found.steps[number]
    return float(mannwhitneyu(new, found.residuals[:first], alternative="two-sided").pvalue)


def _in_scale(step: float, scale: Scale) -> float:
    """Return a step of y in percent of the previous level, or in points."""
    return float(100 * np.expm1(step / 100)) if scale is Scale.RATIO else step


def _change(series: Series, judged: Sequence[int], found: Fit, firsts: Sequence[int], number: int) -> ChangePoint:
    from scipy.special import stdtrit

    first = firsts[number]
    step, half = float(found.steps[number]), float(stdtrit(found.degrees_of_freedom, 0.975) * found.errors[number])
    low = float(found.levels[first] - step + found.drift[first])
    ratio = series.scale is Scale.RATIO
    before, after = (float(np.exp(y / 100)) if ratio else y for y in (low, low + step))
    return ChangePoint(
        first=judged[first],
        last_before=judged[first - 1],
        before=before,
        after=after,
        size=Interval(
            value=_in_scale(step, series.scale),
            low=_in_scale(step - half, series.scale),
            high=_in_scale(step + half, series.scale),
        ),
        regression=(step > 0) is series.higher_is_worse,
    )
