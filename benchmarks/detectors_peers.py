"""The detectors that ``benchmarks.detectors`` compares: ours, Otava's, asv's, ruptures' alone, a t-test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise

import numpy as np

from bpudeploy.nightly.change_points import Limits, find_change_points
from bpudeploy.nightly.series import Point, Series

SAME = 3
"""Nights: findings so near to each other are one."""


@dataclass(frozen=True, order=True)
class Found:
    """One change: index of its first night, and whether it is a regression."""

    first: int
    regression: bool


Detect = Callable[[Series], Sequence[Found]]


@dataclass(frozen=True)
class Detector:
    """A detector with one setting."""

    family: str
    setting: str
    detect: Detect


def ours(series: Series, limits: Limits) -> list[Found]:
    """bpudeploy.nightly.change_points."""
    return [Found(change.first, change.regression) for change in find_change_points(series, limits)]


def otava(series: Series, window: int, p: float, magnitude: float) -> list[Found]:
    """Apache Otava's analysis, formerly Hunter: E-divisive means, then t-tests (Fleming et al., ICPE 2023)."""
    from otava.analysis import compute_change_points

    values = [point.value for point in series.points]
    if len(values) < 3:
        return []
    strong, _ = compute_change_points(values, window_len=window, max_pvalue=p, min_magnitude=magnitude)
    return [Found(int(c.index), bool(c.stats.mean_2 > c.stats.mean_1)) for c in strong]


@lru_cache(maxsize=100_000)
def _asv_steps(values: tuple[float, ...]) -> list[tuple[int, int, float, float, float]]:
    from asv.step_detect import detect_steps

    return [(left, right, float(v), float(low), float(error)) for left, right, v, low, error in detect_steps(values)]


def asv(series: Series, threshold: float) -> list[Found]:
    """asv's step detection (Potts functional, L1) and its regressions, as ``asv publish`` shows them."""
    from asv.step_detect import detect_regressions

    steps = _asv_steps(tuple(point.value for point in series.points))
    _, _, places = detect_regressions(steps, threshold=threshold)
    worse = {int(first) for _, first, *_ in places or ()}
    better = {
        right[0] for left, right in pairwise(steps) if right[2] < left[2] * (1 - threshold) and right[0] not in worse
    }
    return [*(Found(first, True) for first in worse), *(Found(first, False) for first in better)]


def _tail(values: np.ndarray[tuple[int], np.dtype[np.float64]], ends: Sequence[int]) -> list[Found]:
    edges = [0, *ends]
    means = [float(values[a:b].mean()) for a, b in pairwise(edges)]
    return [Found(end, after > before) for end, before, after in zip(ends[:-1], means[:-1], means[1:], strict=True)]


def rbf(series: Series, penalty: float) -> list[Found]:
    """ruptures' PELT with the rbf cost (its C implementation), penalty 10 in the first example of its documentation."""
    from ruptures import KernelCPD

    values = np.array([point.value for point in series.points])
    if len(values) < 6:
        return []
    return _tail(values, KernelCPD(kernel="rbf").fit(values[:, None]).predict(pen=penalty))


def kernel(series: Series, penalty: float) -> list[Found]:
    """ruptures' exact least-squares segmentation; the penalty is in variances times log n."""
    from ruptures import KernelCPD

    values = np.log([point.value for point in series.points])
    if len(values) < 6:
        return []
    sigma2 = float(np.median(np.abs(np.diff(values))) * 1.4826) ** 2 / 2
    ends = (
        KernelCPD(kernel="linear", min_size=3).fit(values[:, None]).predict(pen=penalty * sigma2 * np.log(len(values)))
    )
    return _tail(values, ends)


def last_night(series: Series, p: float) -> list[Found]:
    """Student's t of last night against the 30 nights before."""
    from scipy.stats import t

    *before, last = [point.value for point in series.points][-31:]
    if len(before) < 6:
        return []
    error = float(np.std(before, ddof=1)) * float(np.sqrt(1 + 1 / len(before)))
    slower = (last - float(np.mean(before))) / max(error, 1e-12)
    return [Found(len(series.points) - 1, True)] if t.sf(slower, len(before) - 1) < p else []


def judged(series: Series, detect: Detect) -> list[Found]:
    """Run a detector that knows no invalid nights on the others."""
    kept = [index for index, point in enumerate(series.points) if not point.invalid]
    found = detect(_with(series, [series.points[index] for index in kept])) if kept else []
    return [Found(kept[one.first], one.regression) for one in found]


def by_board(series: Series, detect: Detect) -> list[Found]:
    """Run a detector that knows no boards on each board alone; findings near to each other are one."""
    found: set[Found] = set()
    for board in sorted({point.board for point in series.points}):
        kept = [index for index, point in enumerate(series.points) if point.board == board]
        alone = detect(_with(series, [series.points[index] for index in kept]))
        found |= {Found(kept[one.first], one.regression) for one in alone}
    distinct: list[Found] = []
    for one in sorted(found):
        if not any(one.regression is other.regression and one.first - other.first <= SAME for other in distinct):
            distinct.append(one)
    return distinct


def _with(series: Series, points: Sequence[Point]) -> Series:
    return replace(series, points=tuple(points), higher_is_worse=True)


def confirmed(series: Series, detect: Detect) -> list[Found]:
    """Keep what two nights more have not undone: findings with three nights or more since."""
    return [one for one in detect(series) if len(series.points) - one.first >= 3]


def peer(family: str, setting: str, detect: Detect) -> Detector:
    """Return a detector that sees no invalid nights."""
    return Detector(family, setting, partial(judged, detect=detect))


def helped(family: str, setting: str, detect: Detect, *, boards_apart: bool) -> Detector:
    """Return a detector with what a careful user would add: confirmation by two more nights, and each board alone."""
    if boards_apart:
        setting, detect = f"{setting}, each board apart", partial(by_board, detect=detect)
    return peer(family, f"{setting}, confirmed", partial(confirmed, detect=detect))


def defaults() -> list[Detector]:
    """Return each with the settings that its documentation or source gives as default."""
    return [
        Detector("bpudeploy", "as it is", partial(ours, limits=Limits())),
        peer("Otava", "default: window 50, p 0.001", partial(otava, window=50, p=1e-3, magnitude=0.0)),
        peer("asv", "default: threshold 5 %", partial(asv, threshold=0.05)),
        peer("ruptures KernelCPD", "rbf, penalty 10 as in its first example", partial(rbf, penalty=10.0)),
        peer("t-test of last night", "p 0.001", partial(last_night, p=1e-3)),
    ]


def grid() -> list[Detector]:
    """Return the settings that --tune tries."""
    tried = [
        Detector("bpudeploy", f"sure {sure:g}, rank {rank:g}", partial(ours, limits=Limits(sure, rank_p=rank)))
        for sure, rank in ((0.0, 2e-3), (0.4, 1e-3), (0.8, 2e-3), (1.0, 1e-3))
    ]
    for apart in (False, True):
        tried += [
            helped(
                "Otava", f"p {p:g}, magnitude 1 %", partial(otava, window=50, p=p, magnitude=0.01), boards_apart=apart
            )
            for p in (1e-3, 1e-4, 1e-6)
        ]
        tried += [
            helped("asv", f"threshold {100 * h:g} %", partial(asv, threshold=h), boards_apart=apart)
            for h in (0.01, 0.02, 0.03)
        ]
        tried += [
            helped("ruptures KernelCPD", f"linear, penalty {c:g}", partial(kernel, penalty=c), boards_apart=apart)
            for c in (3.0, 6.0, 10.0, 20.0)
        ]
        tried += [
            helped("ruptures KernelCPD", f"rbf, penalty {c:g}", partial(rbf, penalty=c), boards_apart=apart)
            for c in (2.0, 3.0, 4.0, 5.0, 7.0)
        ]
    return tried


def chosen() -> list[Detector]:
    """Return each peer with the setting that --tune found best by F1 online; Otava and asv also one stricter."""
    strict = [
        *(("Otava", f"p {p:g}, magnitude 1 %", partial(otava, window=50, p=p, magnitude=0.01)) for p in (1e-6, 1e-8)),
        *(("asv", f"threshold {100 * h:g} %", partial(asv, threshold=h)) for h in (0.03, 0.05)),
        ("ruptures KernelCPD", "linear, penalty 20", partial(kernel, penalty=20.0)),
        ("ruptures KernelCPD", "rbf, penalty 4", partial(rbf, penalty=4.0)),
    ]
    return [helped(family, setting, detect, boards_apart=False) for family, setting, detect in strict]
