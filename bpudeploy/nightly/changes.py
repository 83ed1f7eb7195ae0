"""Where a series changed its level for good, and whether that stands: from the nights up to this morning.

ruptures proposes (its exact least-squares segmentation: Truong, Oudre and Vayatis, Signal Processing 167, 2020); the
joint fit of ``levels`` disposes: the weakest proposal goes until all that are left are sure. Sure is a step that

- is at least ``at_least``;
- has 6 judged nights before it, 3 on its old level, and 3 on its new one that agree with each other: one or two wild
  nights are outliers, not news;
- is so many standard errors high, by Student's t and with boards, temperature and drift accounted for, that chance
  hardly reaches it: more for a short level than for a long one, sqrt(2 log(e horizon / nights)) and ``Limits.sure``
  on top, since there are more short ones to be fooled by (Frick, Munk and Sieling, JRSS B 76, 2014);
- passes a rank test as well (Mann and Whitney, Ann. Math. Stat. 18, 1947), exact for independent noise of any shape:
  with two-speed or heavy-tailed noise, a few slow nights in a row are nothing that the nights before have not shown.

The limits were chosen on seeds kept for that (``python -m benchmarks.detectors --tune``). What they cost and give on
other seeds is in docs/explanation/regressions.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bpudeploy.nightly.levels import Fit, Floats, Nights, fit, nights, spread
from bpudeploy.nightly.series import Scale, Series, Worse
from bpudeploy.results.measurement import Interval

_BEFORE = 6
_AFTER = 3
ENOUGH = _BEFORE + _AFTER
"""Judged nights before which nothing is said."""
_AGREE = 3.0  # standard deviations
_PENALTY = 9.0  # variances that a proposal must explain
_PASSES = 3


@dataclass(frozen=True)
class Limits:
    """How sure is sure; chosen on seeds kept for that (see docs/explanation/regressions.md)."""

    sure: float = 0.8
    """Standard errors on top of what the number of tries in ``horizon`` nights asks for."""
    horizon: float = 1000.0
    rank_p: float = 2e-3
    """Two-sided p-value that the rank test must reach; with 3 nights on the new level that takes 17 before."""


LIMITS = Limits()


@dataclass(frozen=True)
class Change:
    """A step of the level that lasts. Board offsets, temperature and drift are taken out of its figures."""

    first: int
    """Index into the series' points: the first on the new level, of a regression the first bad night."""
    last_before: int
    """Index of the last judged point on the old level; what differs between the two is suspect."""
    before: float
    after: float
    size: Interval
    """From before to after, in percent of before or in points, with its 95 % interval."""
    regression: bool


def changes(series: Series, limits: Limits = LIMITS) -> tuple[Change, ...]:
    """Return the changes of a series in the order of time; none where there is too little to be sure.

    Pure and deterministic; about 5 ms for 150 nights, below 0.1 s for 1,000.

    >>> from datetime import datetime, timedelta, timezone
    >>> from bpudeploy.nightly.series import Point
    >>> begin = datetime(2026, 1, 1, tzinfo=timezone.utc)
    >>> values = [10.0, 10.1, 9.9, 10.0] * 5 + [10.6, 10.5, 10.7]
    >>> nights_ = tuple(Point(begin + timedelta(days=n), ms, "board-1") for n, ms in enumerate(values))
    >>> [(c.first, c.regression) for c in changes(Series(nights_, Scale.RATIO, Worse.HIGHER, at_least=1.0))]
    [(20, True)]
    """
    judged = [index for index, point in enumerate(series.points) if not point.invalid]
    if len(judged) < ENOUGH:
        return ()
    data = nights([series.points[index] for index in judged], series.scale, series.at_least)
    firsts: list[int] = []
    found = fit(data, firsts)
    for _ in range(_PASSES):
        proposed = sorted(set(_propose(data.y - found.explained, data.floor)))
        kept, found = _sure(data, proposed, series, limits)
        if kept == firsts:
            break
        firsts = kept
    return tuple(_change(series, judged, found, firsts, number) for number in range(len(firsts)))


def standing(series: Series) -> Change | None:
    """Return the latest regression that the series has not recovered from, None where there is none."""
    return standing_of(changes(series))


def standing_of(found: Sequence[Change]) -> Change | None:
    """Return the same of a series' changes. Recovered is: the last change brought back at least half of it."""
    for number in range(len(found) - 1, -1, -1):
        if found[number].regression and not _recovered(found[number], found[number + 1 :]):
            return found[number]
    return None


def _recovered(regression: Change, later: Sequence[Change]) -> bool:
    height = regression.after - regression.before
    return any((change.after - regression.before) / height <= 0.5 for change in later[-1:])


def _propose(levels: Floats, floor: float) -> list[int]:
    """Return where ruptures sees steps in values whose lone outliers are pulled in first."""
    from ruptures import KernelCPD

    middle = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(levels, 2, mode="reflect"), 5), axis=1)
    sigma = spread(levels - middle, floor)
    calm = np.clip(levels, middle - 2 * sigma, middle + 2 * sigma)
    ends: list[int] = KernelCPD(kernel="linear", min_size=_AFTER).fit(calm[:, None]).predict(pen=_PENALTY * sigma**2)
    return ends[:-1]


def _sure(data: Nights, proposed: Sequence[int], series: Series, limits: Limits) -> tuple[list[int], Fit]:
    """Return the proposals that are left once the weakest unsure one has gone, again and again."""
    firsts = list(proposed)
    while True:
        found = fit(data, firsts)
        margins = _margins(found, firsts, series, limits)
        unsure = [i for i, margin in enumerate(margins) if margin < 0]
        unsure = unsure or [i for i in range(len(firsts)) if _alike(found, firsts, i) > limits.rank_p]
        if not unsure:
            return firsts, found
        del firsts[min(unsure, key=lambda i: margins[i])]


def _margins(found: Fit, firsts: Sequence[int], series: Series, limits: Limits) -> list[float]:
    """Return by how many standard errors each step is above what it needs; below 0 it is not sure."""
    from scipy.special import ndtri, stdtr

    t = np.abs(found.steps) / np.maximum(found.errors, 1e-12)
    scores = -ndtri(np.maximum(stdtr(found.freedom, -t), 1e-300))  # of the same p-value as t
    edges = [0, *firsts, len(found.residuals)]
    margins = []
    for number, score in enumerate(scores):
        start, first, end = edges[number : number + 3]
        agree = int(np.sum(np.abs(found.residuals[first:end]) <= _AGREE * found.sigma))
        few = first < _BEFORE or min(first - start, agree) < _AFTER
        small = abs(_in_scale(float(found.steps[number]), series.scale)) < series.at_least
        need = limits.sure + math.sqrt(2 * math.log(math.e * limits.horizon / min(first - start, end - first)))
        margins.append(-math.inf if few or small else float(score) - need)
    return margins


def _alike(found: Fit, firsts: Sequence[int], number: int) -> float:
    """Return the rank test's two-sided p-value of the nights after a step, against the noise of all before it."""
    from scipy.stats import mannwhitneyu

    first, end = [*firsts, len(found.residuals)][number : number + 2]
    new = found.residuals[first:end] + found.steps[number]
    return float(mannwhitneyu(new, found.residuals[:first], alternative="two-sided").pvalue)


def _in_scale(step: float, scale: Scale) -> float:
    """Return a step of y in percent of the level before, or in points."""
    return float(100 * np.expm1(step / 100)) if scale is Scale.RATIO else step


def _change(series: Series, judged: Sequence[int], found: Fit, firsts: Sequence[int], number: int) -> Change:
    from scipy.special import stdtrit

    first = firsts[number]
    step, half = float(found.steps[number]), float(stdtrit(found.freedom, 0.975) * found.errors[number])
    low = float(found.levels[first] - step + found.drift[first])
    ratio = series.scale is Scale.RATIO
    before, after = (float(np.exp(y / 100)) if ratio else y for y in (low, low + step))
    return Change(
        first=judged[first],
        last_before=judged[first - 1],
        before=before,
        after=after,
        size=Interval(
            value=_in_scale(step, series.scale),
            low=_in_scale(step - half, series.scale),
            high=_in_scale(step + half, series.scale),
        ),
        regression=(step > 0) is (series.worse is Worse.HIGHER),
    )
