"""The golden self-check: does a release on a board give the host's answers, within rounding?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from bpudeploy.results.measurement import FrozenModel

LIMIT = 0.3
"""Limit of ``deviation``. Rounding and a colour conversion stay below 0.1; a wrong network has about 1.4."""


class SelfCheck(FrozenModel):
    """The board's logits of the golden images compared with the host's."""

    images: int
    same: int
    """Images with the same top-1 class."""
    deviation: float
    """RMS difference of the logits over their standard deviation on the host; 0: equal."""
    limit: float = LIMIT

    @property
    def holds(self) -> bool:
        """Whether the deviation is within the limit."""
        return self.deviation <= self.limit


def self_check(expected: Sequence[Sequence[float]], got: Sequence[Sequence[float]]) -> SelfCheck:
    """Compare a board's logits (images, classes) with the host's.

    The deviation is over all logits together: per image it would be meaningless with two classes. No numpy, which a
    base installation that rolls out releases does not have.

    Raises:
        ValueError: the shapes differ.
    """
    if [len(row) for row in expected] != [len(row) for row in got] or not expected:
        raise ValueError("the board's logits are of another shape than the host's")
    host, board = ([value for row in rows for value in row] for rows in (expected, got))
    mean = fmean(host)
    spread = math.fsum((value - mean) ** 2 for value in host)
    difference = math.fsum((a - b) ** 2 for a, b in zip(host, board, strict=True))
    return SelfCheck(
        images=len(expected),
        same=sum(_top1(a) == _top1(b) for a, b in zip(expected, got, strict=True)),
        deviation=math.sqrt(difference / spread) if spread else float(difference > 0),
    )


def _top1(row: Sequence[float]) -> int:
    return max(range(len(row)), key=row.__getitem__)
