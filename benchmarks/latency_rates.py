"""Fit the rates of a latency model to published latencies, with cross-validation by model family.

    published = sum of amount_t * rate_t * (1 + error)

Minimizes the squared relative errors plus the squared distances from the expected rates, which act as a prior: an
expected rate counts like one row that is off by ``PRIOR_FACTOR``. Rows with large errors get lower weights, as in
least absolute deviations. No rate falls below its expected value divided by ``PRIOR_FACTOR``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from bpudeploy.predict.estimate import COVERAGE, COVERAGE_SIGMAS, log_half_width
from bpudeploy.predict.march import FamilyError, Term

Vector = NDArray[np.float64]

NOISE = 0.1
"""Expected relative error of a row: toolchain versions alone differ by more (see docs/explanation/latency-model.md)."""
PRIOR_FACTOR = 3.0
"""Uncertainty of an expected rate: its relative standard deviation, and the factor that bounds it from below."""
_ROUNDS = 30


@dataclass(frozen=True)
class Row:
    """One published latency, single stream."""

    model: str
    family: str
    published_ms: float
    amounts: Mapping[Term, float]


@dataclass(frozen=True)
class HeldOutPrediction:
    """A row predicted by a fit without its family."""

    row: Row
    predicted_ms: float
    low_ms: float
    high_ms: float

    @property
    def error(self) -> float:
        """|predicted / published - 1|."""
        return abs(self.predicted_ms / self.row.published_ms - 1)

    @property
    def covered(self) -> bool:
        """Whether the interval contains the published latency."""
        return self.low_ms <= self.row.published_ms <= self.high_ms


@dataclass(frozen=True)
class FitResult:
    """The rates in ms per unit, their relative standard errors, and the cross-validation."""

    rates: dict[Term, float]
    spread: dict[Term, float]
    residual: float
    held_out: tuple[HeldOutPrediction, ...]
    fold_rates: dict[str, dict[Term, float]]
    """By family: the rates of a fit without it."""

    def families(self) -> tuple[FamilyError, ...]:
        """Return the errors by family, in alphabetical order."""
        names = sorted({p.row.family for p in self.held_out})
        return tuple(family_error(name, [p for p in self.held_out if p.row.family == name]) for name in names)


def family_error(name: str, held_out: Sequence[HeldOutPrediction]) -> FamilyError:
    """Summarize the errors of some rows under one name."""
    errors = [p.error for p in held_out]
    return FamilyError(
        family=name,
        rows=len(errors),
        median=round(float(np.median(errors)), 3),
        p90=round(float(np.quantile(errors, 0.9)), 3),
        covered=sum(p.covered for p in held_out),
    )


def fit(
    rows: Sequence[Row], expected: Mapping[Term, float], fold_expected: Mapping[str, Mapping[Term, float]] | None = None
) -> FitResult:
    """Fit the rate of every term in ``expected`` (ms per unit, above 0), and predict each family from the others.

    Args:
        fold_expected: by family, expected rates that do not depend on it, if ``expected`` comes from a fit.
    """
    terms = list(expected)

    def by_term(values: Vector) -> dict[Term, float]:
        return {t: float(v) for t, v in zip(terms, values, strict=True)}

    prior = _array([expected[t] for t in terms])
    amounts = _array([[r.amounts.get(t, 0.0) for t in terms] for r in rows])
    published = _array([r.published_ms for r in rows])
    folds: dict[str, Vector] = {}
    for family in sorted({r.family for r in rows}):
        kept = np.array([r.family != family for r in rows])
        before = (fold_expected or {}).get(family, expected)
        folds[family] = _rates(amounts[kept], published[kept], _array([before[t] for t in terms]))
    rates = _rates(amounts, published, prior)
    spread = by_term(_spread(amounts, published, prior, rates, list(folds.values())))
    times = [a * folds[r.family] for a, r in zip(amounts, rows, strict=True)]
    off = [abs(log(float(t.sum()) / r.published_ms)) for t, r in zip(times, rows, strict=True)]
    held_out = []
    for row, time in zip(rows, times, strict=True):
        others = [o for o, r in zip(off, rows, strict=True) if r.family != row.family]
        half, ms = log_half_width(robust_deviation(others or off), by_term(time), spread), float(time.sum())
        held_out.append(HeldOutPrediction(row, ms, ms * exp(-half), ms * exp(half)))
    fold_rates = {family: by_term(fold) for family, fold in folds.items()}
    return FitResult(by_term(rates), spread, robust_deviation(off), tuple(held_out), fold_rates)


def robust_deviation(errors: Sequence[float]) -> float:
    """Return the standard deviation of the normal distribution with the same 90 % quantile of |error|."""
    return float(np.quantile(errors, COVERAGE)) / COVERAGE_SIGMAS


def _rates(amounts: Vector, published: Vector, prior: Vector) -> Vector:
    pull = np.diag(NOISE / PRIOR_FACTOR / prior)
    scaled, floor = amounts / published[:, None], prior / PRIOR_FACTOR
    rates, weights = prior, np.ones(len(published))
    for _ in range(_ROUNDS):
        a = np.vstack((scaled * weights[:, None], pull))
        b = np.concatenate((weights, pull @ prior))
        rates = floor + nnls(a, b - a @ floor)[0]
        off = np.abs(scaled @ rates - 1)
        weights = np.sqrt(NOISE / np.maximum(off, NOISE / 2))
    return rates


def _spread(amounts: Vector, published: Vector, prior: Vector, rates: Vector, folds: Sequence[Vector]) -> Vector:
    """Return the relative standard errors of the rates, from the fit and the jackknife over families; at most 1."""
    scaled = amounts / published[:, None] / NOISE
    information = scaled.T @ scaled + np.diag(1 / prior**2)
    of_fit = np.sqrt(np.diag(np.linalg.inv(information))) / rates
    jackknife = np.sqrt(np.sum([(f - rates) ** 2 for f in folds], axis=0) * (len(folds) - 1) / len(folds)) / rates
    relative: Vector = np.minimum(np.hypot(of_fit, jackknife), 1.0)
    return relative


def _array(values: Sequence[object]) -> Vector:
    return np.array(values, dtype=np.float64)
