"""Separate the steps of a series from the effects of boards, temperature and drift in one robust fit.

A night is modelled as

    y(t) = level + sum of the steps up to t + offset of its board + b (temperature - mean) + drift(t) + noise

with y in points, or in 100 times the logarithm (percent, for small changes). It is least squares with Huber's weights
(Huber, Ann. Math. Stat. 35, 1964; cut at ``_HUBER`` standard deviations), so that outliers have little weight. Offsets,
b and drift have normal priors, which is ridge regression (Hoerl and Kennard, Technometrics 12, 1970): what a board, a
hot week or a slow drift may explain widens the interval of the step. Drift is piecewise linear with knots every
``_KNOT_DAYS`` days.
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
_BOARD_SD = 30.0  # percent or points: practically unconstrained
_TEMPERATURE_SD = 0.3  # percent or points per °C
_DRIFT_SD = 0.03  # percent or points per day
_CORRELATION = 0.15
_CORRELATION_NIGHTS = 40
_MAD = 1.4826  # of a normal distribution: standard deviation / median absolute deviation

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DesignMatrix:
    """The n valid nights of a series as columns."""

    y: Floats
    """(n,) 100 ln(value), or the value."""
    columns: Floats
    """(n, q) boards except the most frequent, temperature, drift."""
    priors: Floats
    """(q,) standard deviations of their coefficients."""
    boards: int
    """Number of leading columns for boards."""
    drifts: int
    """Number of trailing columns for drift."""
    floor: float
    """Lower limit of the noise's standard deviation."""


@dataclass(frozen=True)
class Fit:
    """A fit with j steps."""

    steps: Floats
    """(j,) heights."""
    errors: Floats
    """(j,) their standard errors."""
    degrees_of_freedom: float
    residuals: Floats
    """(n,)"""
    explained: Floats
    """(n,) effects of boards (relative to their mean) and temperature."""
    drift: Floats
    """(n,)"""
    levels: Floats
    """(n,) level and steps at the mean board and temperature, without drift."""
    sigma: float


def design_matrix(points: Sequence[Point], scale: Scale, at_least: float) -> DesignMatrix:
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
    return DesignMatrix(
        y=y,
        columns=np.column_stack([*offsets, warmer, *drifts]),
        priors=np.array([_BOARD_SD] * len(offsets) + [_TEMPERATURE_SD] + [_DRIFT_SD] * len(drifts)),
        boards=len(offsets),
        drifts=len(drifts),
        floor=max(at_least / 20, 1e-6),
    )


def robust_std(residuals: Floats, floor: float) -> float:
    """Return the standard deviation around 0 of residuals clipped at three times that of the MAD."""
    rough = max(_MAD * float(np.median(np.abs(residuals))), floor)
    return max(float(np.sqrt(np.mean(np.clip(residuals, -_CLIP * rough, _CLIP * rough) ** 2))), floor)


def fit(data: DesignMatrix, firsts: Sequence[int]) -> Fit:
    """Fit steps whose first nights are ``firsts`` (indices into the valid nights, ascending)."""
    n, j = len(data.y), len(firsts)
    index = np.arange(n)
    x = np.column_stack([np.ones(n), *[(index >= first).astype(float) for first in firsts], data.columns])
    weak = np.concatenate([np.zeros(1 + j), 1 / data.priors**2])
    centre = float(np.median(data.y))
    y = data.y - centre
    weights = np.ones(n)
    sigma = max(_MAD * float(np.median(np.abs(np.diff(y)))) / math.sqrt(2), data.floor)  # steps hardly affect it
    for _ in range(_ROUNDS):
        weighted = x * weights[:, None]
        inverse = np.linalg.inv(weighted.T @ x + np.diag(weak * sigma**2 + 1e-9))
        beta = inverse @ (weighted.T @ y)
        residuals = y - x @ beta
        sigma = robust_std(residuals, data.floor)
        weights = np.minimum(1.0, _HUBER * sigma / np.maximum(np.abs(residuals), 1e-12))
    freedom = max(n - 1 - j - data.boards, 1.0)
    sigma *= math.sqrt(n / freedom)
    inflation = _inflation(np.clip(residuals, -_CLIP * sigma, _CLIP * sigma))
    steps, drift = slice(1, 1 + j), slice(x.shape[1] - data.drifts, None)
    others = x[:, steps.stop : drift.start] @ beta[steps.stop : drift.start]
    mean = float(np.mean(others))
    return Fit(
        steps=beta[steps],
        errors=sigma * inflation * np.sqrt(np.maximum(np.diag(inverse)[steps], 0.0)),
        degrees_of_freedom=freedom,
        residuals=residuals,
        explained=others - mean,
        drift=x[:, drift] @ beta[drift],
        levels=x[:, : steps.stop] @ beta[: steps.stop] + mean + centre,
        sigma=sigma,
    )


def _inflation(residuals: Floats) -> float:
    """Return the effect of a lag-1 correlation r on the standard error of a mean: sqrt((1 + r) / (1 - r)), at least 1.

    As a few nights determine r badly, it is shrunk towards ``_CORRELATION`` with ``_CORRELATION_NIGHTS`` pseudo-nights.
    """
    power = float(residuals @ residuals)
    measured = float(residuals[1:] @ residuals[:-1]) / power if power else 0.0
    n = len(residuals)
    r = min(max((n * measured + _CORRELATION_NIGHTS * _CORRELATION) / (n + _CORRELATION_NIGHTS), 0.0), 0.7)
    return math.sqrt((1 + r) / (1 - r))
