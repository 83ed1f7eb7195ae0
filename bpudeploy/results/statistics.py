"""Confidence intervals and tests of accuracies."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bpudeploy.results.measurement import Interval
from bpudeploy.results.summary import AccuracyDrop, Verdict

_Z = 1.959963984540054  # 97.5 % point of the normal distribution
_LEVEL = 0.05
_RESAMPLES = 10_000


def wilson(correct: int, images: int) -> Interval:
    """Return a proportion in percent with Wilson's 95 % score interval (E. B. Wilson, JASA 22, 1927).

    Raises:
        ValueError: unless 0 <= correct <= images and images > 0.
    """
    from scipy.stats import binomtest

    if not 0 <= correct <= images or images == 0:
        raise ValueError(f"{correct} of {images} is no proportion")
    bounds = binomtest(correct, images).proportion_ci(1 - _LEVEL, method="wilson")
    return Interval(value=100 * correct / images, low=100 * float(bounds.low), high=100 * float(bounds.high))


def paired_drop(before: Sequence[bool], after: Sequence[bool]) -> AccuracyDrop:
    """Return the accuracy lost from ``before`` to ``after`` on the same images, in percentage points.

    With b images right only before and c right only after, the loss is (b - c) / n. Its interval is Agresti and Min's
    adjusted Wald for matched pairs (Stat. Med. 24, 2005): half an image is added to each of the four cells. The
    verdict is that of the exact McNemar test at 5 %; if it is significant, the interval excludes 0.

    Raises:
        ValueError: no images, or different numbers of them.
    """
    from scipy.stats import binomtest

    n = len(before)
    if n == 0 or n != len(after):
        raise ValueError("paired images are required")
    b = sum(x and not y for x, y in zip(before, after, strict=True))
    c = sum(y and not x for x, y in zip(before, after, strict=True))
    nn = n + 2
    centre = (b - c) / nn
    half = _Z * math.sqrt((b + c + 1) - (b - c) ** 2 / nn) / nn
    p_value = float(binomtest(b, b + c).pvalue) if b + c else 1.0
    direction = Verdict.WORSE if b > c else Verdict.BETTER
    return AccuracyDrop(
        points=Interval(value=100 * (b - c) / n, low=100 * (centre - half), high=100 * (centre + half)),
        bootstrap=_bootstrap(b, c, n),
        lost=b,
        gained=c,
        p_value=p_value,
        verdict=direction if p_value < _LEVEL else Verdict.CANNOT_TELL,
        detectable=100 * _detectable(b + c) / n,
    )


def _detectable(discordant: int) -> int:
    """Return the smallest significant b - c among ``discordant`` images: about 2 sqrt(discordant), at least 6."""
    from scipy.stats import binom

    d = max(6, discordant)  # 2 / 2^5 > 5 % > 2 / 2^6
    return d + 2 - 2 * int(binom.ppf(_LEVEL / 2, d, 0.5))


def _bootstrap(b: int, c: int, n: int) -> Interval:
    """Return (b - c) / n in percent with the percentile interval of 10,000 seeded resamples of the n image pairs.

    The counts are drawn from their multinomial, which is the same as resampling images (Efron and Tibshirani, An
    Introduction to the Bootstrap, 13.3) and takes no time. It is too narrow if b or c is small (width 0 if both are
    0): the verdict does not depend on it.
    """
    import numpy as np

    drawn = np.random.default_rng(0).multinomial(n, [b / n, c / n, (n - b - c) / n], _RESAMPLES)
    low, high = np.quantile(drawn[:, 0] - drawn[:, 1], [_LEVEL / 2, 1 - _LEVEL / 2])
    return Interval(value=100 * (b - c) / n, low=100 * float(low) / n, high=100 * float(high) / n)
