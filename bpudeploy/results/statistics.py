"""Intervals and tests of proportions: no accuracy without its spread."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile

from bpudeploy.results.measurement import Interval
from bpudeploy.results.summary import Drop, Verdict

_Z = 1.959963984540054  # 97.5 % point of the normal distribution
_LEVEL = 0.05
_RESAMPLES = 10_000


def wilson(correct: int, images: int) -> Interval:
    """Return a proportion in percent with Wilson's 95 % score interval (E. B. Wilson, JASA 22, 1927).

    Raises:
        ValueError: unless 0 <= correct <= images and images > 0.
    """
    if not 0 <= correct <= images or images == 0:
        raise ValueError(f"{correct} of {images} is no proportion")
    p, n, z2 = correct / images, images, _Z * _Z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return Interval(value=100 * p, low=100 * max(0.0, centre - half), high=100 * min(1.0, centre + half))


def paired_drop(before: Sequence[bool], after: Sequence[bool]) -> Drop:
    """Return the loss from ``before`` to ``after`` on the same images, in percentage points.

    With b images right only before and c right only after, the loss is (b - c) / n. Its interval is
    Agresti and Min's adjusted Wald for matched pairs (Stat. Med. 24, 2005): half an image is added to each
    of the four cells. The p-value is the exact McNemar test: two-sided binomial of min(b, c) in b + c, 1/2.
    The verdict is that test's at 5 %; wherever it tells the two apart, the interval excludes 0.

    Raises:
        ValueError: no images, or not the same number.
    """
    n = len(before)
    if n == 0 or n != len(after):
        raise ValueError("paired images are wanted")
    b = sum(x and not y for x, y in zip(before, after, strict=True))
    c = sum(y and not x for x, y in zip(before, after, strict=True))
    bb, cc, nn = b + 0.5, c + 0.5, n + 2
    centre = (bb - cc) / nn
    half = _Z * math.sqrt((bb + cc) - (bb - cc) ** 2 / nn) / nn
    p_value = _mcnemar(b, c)
    told = Verdict.WORSE if b > c else Verdict.BETTER
    return Drop(
        points=Interval(value=100 * (b - c) / n, low=100 * (centre - half), high=100 * (centre + half)),
        bootstrap=_bootstrap(b, c, n),
        lost=b,
        gained=c,
        p_value=p_value,
        verdict=told if p_value < _LEVEL else Verdict.CANNOT_TELL,
        detectable=100 * _detectable(b + c) / n,
    )


def _mcnemar(b: int, c: int) -> float:
    return next(islice(_p_values(b + c), min(b, c), None))


def _p_values(discordant: int) -> Iterator[float]:
    """Yield the exact McNemar p for 0, 1, 2, ... up to half of ``discordant`` images on the rarer side."""
    ways = tail = 1
    for rarer in range(discordant // 2 + 1):
        yield min(1.0, 2 * tail / 2**discordant)
        ways = ways * (discordant - rarer) // (rarer + 1)
        tail += ways


def _detectable(discordant: int) -> int:
    """Return the smallest b - c that is significant among ``discordant`` images: about 2 sqrt(discordant).

    Fewer than six cannot be: six, all lost, have p = 2 / 2^6 < 5 %, and five have not. So six is the least.
    """
    d = max(6, discordant)
    return d + 2 - 2 * sum(1 for _ in takewhile(lambda p: p < _LEVEL, _p_values(d)))


def _bootstrap(b: int, c: int, n: int) -> Interval:
    """Return (b - c) / n in percent with the percentile interval of 10,000 seeded resamples of the n image pairs.

    A resample of images draws the counts of lost, gained and unchanged ones from their multinomial: the same
    distribution, with no image touched (Efron and Tibshirani, An Introduction to the Bootstrap, 13.3). Where b or
    c is a handful it is too narrow (of width 0 when both are 0): the verdict is not its own.
    """
    import numpy as np

    drawn = np.random.default_rng(0).multinomial(n, [b / n, c / n, (n - b - c) / n], _RESAMPLES)
    low, high = np.quantile(drawn[:, 0] - drawn[:, 1], [_LEVEL / 2, 1 - _LEVEL / 2])
    return Interval(value=100 * (b - c) / n, low=100 * float(low) / n, high=100 * float(high) / n)
