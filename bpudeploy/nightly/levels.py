"""Levels, steps, boards, temperature and drift of a series, told apart in one robust fit.

A night is modelled as

    y(t) = level + sum of the steps up to t + offset of its board + b (temperature - mean) + drift(t) + noise

with y in points, or in 100 times the logarithm (percent, for changes that are small). It is least squares with Huber's
weights (Huber, Ann. Math. Stat. 35, 1964; cut at ``_HUBER`` standard deviations), so that a throttled night nobody
marked counts little. Offsets, b and drift have normal priors, which is ridge regression (Hoerl and Kennard,
Technometrics 12, 1970): what a board, a hot week or a slow drift could have done is thereby not proven to be a step,
and the interval of the step says so. Drift is a broken line with knots every ``_KNOT_DAYS`` days.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bpudeploy.nightly.series import Point, Scale

_HUBER = 2.0
_CLIP = 3.0
_ROUNDS = 4
_KNOT_DAYS = 30.0
_BOARD_SD = 30.0  # percent or points: as good as free
_TEMPERATURE_SD = 0.3  # percent or points a degree
_DRIFT_SD = 0.03  # percent or points a day
_CORRELATION = 0.15
_CORRELATION_NIGHTS = 40
_MAD = 1.4826  # of a normal distribution: standard deviation / median absolute deviation

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Nights:
    """The judged nights of a series, n of them, as columns."""

    y: Floats
    """(n,) 100 ln(value), or the value."""
    columns: Floats
    """(n, q) boards but the commonest, temperature, drift."""
    priors: Floats
    """(q,) standard deviations of their coefficients."""
    boards: int
    """How many of the columns, at the front, are boards."""
    drifts: int
    """How many of the columns, at the end, are drift."""
    floor: float
    """The least standard deviation of the noise that is believed."""


@dataclass(frozen=True)
class Fit:
    """What a fit with j steps found."""

    steps: Floats
    """(j,) heights."""
    errors: Floats
    """(j,) their standard errors."""
    freedom: float
    residuals: Floats
    """(n,)"""
    explained: Floats
    """(n,) what boards (against their mean) and temperature add; taken out, the levels remain."""
    drift: Floats
    """(n,)"""
    levels: Floats
    """(n,) level and steps, at the mean board and the mean temperature, without drift."""
    sigma: float


def nights(points: Sequence[Point], scale: Scale, at_least: float) -> Nights:
    """Return the points as columns."""
    values = np.array([point.value for point in points])
    y = 100 * np.log(values) if scale is Scale.RATIO else values
    days = np.array([(point.at - points[0].at).total_seconds() / 86400 for point in points])
    boards = [point.board for point in points]
    names = sorted(set(boards), key=lambda name: (-boards.count(name), name))
    offsets = [np.array([board == name for board in boards], dtype=float) for name in names[1:]]
    known = [point.temperature_c for point in points if point.temperature_c is not None]
    mean = sum(known) / len(known) if known else 0.0
    warmer = np.array([0.0 if p.temperature_c is None else p.temperature_c - mean for p in points])
    knots = np.arange(0.0, max(days[-1], 1.0), _KNOT_DAYS)
    drifts = [np.clip(days - knot, 0.0, _KNOT_DAYS) for knot in knots]
    return Nights(
        y=y,
        columns=np.column_stack([*offsets, warmer, *drifts]),
        priors=np.array([_BOARD_SD] * len(offsets) + [_TEMPERATURE_SD] + [_DRIFT_SD] * len(drifts)),
        boards=len(offsets),
        drifts=len(drifts),
        floor=max(at_least / 20, 1e-6),
    )


def spread(residuals: Floats, floor: float) -> float:
    """Return a standard deviation that a few wild nights do not move: around 0, clipped at three of the MAD's."""
    rough = max(_MAD * float(np.median(np.abs(residuals))), floor)
    return max(float(np.sqrt(np.mean(np.clip(residuals, -_CLIP * rough, _CLIP * rough) ** 2))), floor)


def fit(data: Nights, firsts: Sequence[int]) -> Fit:
    """Fit steps whose first nights are ``firsts`` (indices into the judged nights, ascending)."""
    n, j = len(data.y), len(firsts)
    index = np.arange(n)
    x = np.column_stack([np.ones(n), *[(index >= first).astype(float) for first in firsts], data.columns])
    weak = np.concatenate([np.zeros(1 + j), 1 / data.priors**2])
    centre = float(np.median(data.y))
    y = data.y - centre
    weights = np.ones(n)
    sigma = max(_rough(y), data.floor)
    for _ in range(_ROUNDS):
        weighted = x * weights[:, None]
        inverse = np.linalg.inv(weighted.T @ x + np.diag(weak * sigma**2 + 1e-9))
        beta = inverse @ (weighted.T @ y)
        residuals = y - x @ beta
        sigma = spread(residuals, data.floor)
        weights = np.minimum(1.0, _HUBER * sigma / np.maximum(np.abs(residuals), 1e-12))
    freedom = max(n - 1 - j - data.boards, 1.0)
    sigma *= math.sqrt(n / freedom)
    inflation = _inflation(np.clip(residuals, -_CLIP * sigma, _CLIP * sigma))
    others = x[:, 1 + j : x.shape[1] - data.drifts] @ beta[1 + j : x.shape[1] - data.drifts]
    mean = float(np.mean(others))
    return Fit(
        steps=beta[1 : 1 + j],
        errors=sigma * inflation * np.sqrt(np.maximum(np.diag(inverse)[1 : 1 + j], 0.0)),
        freedom=freedom,
        residuals=residuals,
        explained=others - mean,
        drift=x[:, x.shape[1] - data.drifts :] @ beta[x.shape[1] - data.drifts :],
        levels=x[:, : 1 + j] @ beta[: 1 + j] + mean + centre,
        sigma=sigma,
    )


def _rough(y: Floats) -> float:
    """Return a standard deviation from differences of neighbours, which steps hardly touch."""
    return _MAD * float(np.median(np.abs(np.diff(y)))) / math.sqrt(2) if len(y) > 1 else 0.0


def _inflation(residuals: Floats) -> float:
    """Return what a lag-1 correlation r does to the standard error of a mean: sqrt((1 + r) / (1 - r)), never below 1.

    A few nights tell r badly, so it is drawn towards ``_CORRELATION``, as if that many nights had shown it.
    """
    power = float(residuals @ residuals)
    seen = float(residuals[1:] @ residuals[:-1]) / power if power else 0.0
    n = len(residuals)
    r = (n * seen + _CORRELATION_NIGHTS * _CORRELATION) / (n + _CORRELATION_NIGHTS)
    r = min(max(r, 0.0), 0.7)
    return math.sqrt((1 + r) / (1 - r))
