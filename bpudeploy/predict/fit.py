"""Rates from published latencies: the likeliest ones, none below a third of what is expected, and how far they hold.

    published = sum of amount_t * rate_t * (1 + error)

The squares of the relative errors and of the distances from what is expected are made smallest, an expectation
counting as one row that is off by a factor; rows that are far off count less (as in least absolute errors).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import TYPE_CHECKING

from bpudeploy.predict.march import FamilyError, Term
from bpudeploy.predict.price import COVERS, z_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

NOISE = 0.1
"""Expected relative error of a row: other toolchain versions alone make more (docs/explanation/latency-model.md)."""
BELIEF = 3.0
"""How far an expected rate may be off: as a relative standard deviation, and as the factor that none falls below."""
_ROUNDS = 30


@dataclass(frozen=True)
class Row:
    """One published latency, single stream."""

    model: str
    family: str
    published_ms: float
    amounts: Mapping[Term, float]


@dataclass(frozen=True)
class Unseen:
    """A row as it was predicted by a fit without its family."""

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
        """Whether the interval holds the published figure."""
        return self.low_ms <= self.row.published_ms <= self.high_ms


@dataclass(frozen=True)
class Fitted:
    """The rates in ms per unit, their relative standard errors, and the cross-validation."""

    rates: dict[Term, float]
    spread: dict[Term, float]
    residual: float
    unseen: tuple[Unseen, ...]
    without: dict[str, dict[Term, float]]
    """Family to the rates of a fit without it."""

    def families(self) -> tuple[FamilyError, ...]:
        """Return the errors by family, in alphabetical order."""
        names = sorted({u.row.family for u in self.unseen})
        return tuple(family_error(name, [u for u in self.unseen if u.row.family == name]) for name in names)


def family_error(name: str, unseen: Sequence[Unseen]) -> FamilyError:
    """Return the errors of some rows under one name."""
    import numpy as np

    errors = [u.error for u in unseen]
    return FamilyError(
        family=name,
        rows=len(errors),
        median=round(float(np.median(errors)), 3),
        p90=round(float(np.quantile(errors, 0.9)), 3),
        covered=sum(u.covered for u in unseen),
    )


def fit(
    rows: Sequence[Row], expected: Mapping[Term, float], without: Mapping[str, Mapping[Term, float]] | None = None
) -> Fitted:
    """Fit the rates of every term in ``expected`` (ms per unit, above 0), and predict each family by the others.

    Args:
        without: family to what is expected by who has not seen it either, where ``expected`` comes from a fit.
    """
    terms = list(expected)
    prior = _array([expected[t] for t in terms])
    amounts = _array([[r.amounts.get(t, 0.0) for t in terms] for r in rows])
    published = _array([r.published_ms for r in rows])
    folds: dict[str, Vector] = {}
    for family in sorted({r.family for r in rows}):
        seen = _array([r.family != family for r in rows]).astype(bool)
        before = (without or {}).get(family, expected)
        folds[family] = _rates(amounts[seen], published[seen], _array([before[t] for t in terms]))
    rates = _rates(amounts, published, prior)
    spread = _by(terms, _spread(amounts, published, prior, rates, list(folds.values())))
    times = [a * folds[r.family] for a, r in zip(amounts, rows, strict=True)]
    off = [abs(log(float(t.sum()) / r.published_ms)) for t, r in zip(times, rows, strict=True)]
    unseen = []
    for row, time in zip(rows, times, strict=True):
        others = [o for o, r in zip(off, rows, strict=True) if r.family != row.family]
        z = z_of(_residual(others or off), _by(terms, time), spread)
        ms = float(time.sum())
        unseen.append(Unseen(row, ms, ms * exp(-z), ms * exp(z)))
    return Fitted(
        _by(terms, rates), spread, _residual(off), tuple(unseen), {f: _by(terms, r) for f, r in folds.items()}
    )


def _by(terms: Sequence[Term], values: Vector) -> dict[Term, float]:
    return {t: float(v) for t, v in zip(terms, values, strict=True)}


def _residual(off: Sequence[float]) -> float:
    """Return the deviation of a normal distribution in which as many |log error| are inside an interval as here."""
    import numpy as np

    return float(np.quantile(list(off), COVERS.share)) / COVERS.deviations


def _rates(amounts: Vector, published: Vector, prior: Vector) -> Vector:
    import numpy as np

    pull = np.diag(NOISE / BELIEF / prior)
    scaled, floor = amounts / published[:, None], prior / BELIEF
    weights = np.ones(len(published))
    for _ in range(_ROUNDS):
        a = np.vstack((scaled * weights[:, None], pull))
        b = np.concatenate((weights, pull @ prior))
        rates = floor + not_negative(a, b - a @ floor)
        off = np.abs(scaled @ rates - 1)
        weights = np.sqrt(NOISE / np.maximum(off, NOISE / 2))
    return rates


def not_negative(a: Vector, b: Vector) -> Vector:
    """Return x >= 0 with the smallest \\|a x - b\\| (Lawson and Hanson, Solving Least Squares Problems, ch. 23)."""
    import numpy as np

    size = a.shape[1]
    free, x = np.zeros(size, bool), np.zeros(size)
    for _ in range(10 * size):
        slope = a.T @ (b - a @ x)
        if free.all() or slope[~free].max() <= 1e-10 * max(1.0, float(np.abs(a.T @ b).max())):
            break
        free[np.argmax(np.where(free, -np.inf, slope))] = True
        while True:
            best = np.zeros(size)
            best[free] = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
            if best[free].min() > 0:
                break
            stopped = free & (best <= 0)
            step = np.min(x[stopped] / (x[stopped] - best[stopped]))
            x = x + step * (best - x)
            free &= x > 1e-15
            x[~free] = 0
        x = best
    return x


def _spread(amounts: Vector, published: Vector, prior: Vector, rates: Vector, folds: Sequence[Vector]) -> Vector:
    """Return the rates' relative standard errors: of the fit, and of leaving one family out; 1 at most."""
    import numpy as np

    scaled = amounts / published[:, None] / NOISE
    information = scaled.T @ scaled + np.diag(1 / prior**2)
    of_fit = np.sqrt(np.diag(np.linalg.inv(information))) / rates
    jackknife = np.sqrt(np.sum([(f - rates) ** 2 for f in folds], axis=0) * (len(folds) - 1) / len(folds)) / rates
    relative: Vector = np.minimum(np.hypot(of_fit, jackknife), 1.0)
    return relative


def _array(values: Sequence[object]) -> Vector:
    import numpy as np

    return np.array(values, dtype=np.float64)
