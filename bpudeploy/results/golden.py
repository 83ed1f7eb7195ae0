"""The golden self-check: does a release on a board say what it says on the host, as far as rounding lets it?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

LIMIT = 0.3
"""Of the logits' own spread. Rounding and a colour conversion stay below 0.1; a wrong network has about 1.4."""


class SelfCheck(BaseModel):
    """A board's answers to the golden images against the host's."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    images: int
    same: int
    """Images with the same best class."""
    deviation: float
    """Root mean square difference of the logits over their standard deviation on the host; 0 is equal."""
    limit: float = LIMIT

    @property
    def holds(self) -> bool:
        """Whether it is the network that it should be."""
        return self.deviation <= self.limit


def self_check(expected: Sequence[Sequence[float]], got: Sequence[Sequence[float]]) -> SelfCheck:
    """Hold logits (images, classes) of a board against those of the host.

    One number over all of them: with two classes, the angle between two answers would say nothing.

    Raises:
        ValueError: they are not of the same shape.
    """
    if [len(row) for row in expected] != [len(row) for row in got] or not expected:
        raise ValueError("the board's logits are of another shape than the host's")
    wanted, given = ([value for row in rows for value in row] for rows in (expected, got))
    mean = math.fsum(wanted) / len(wanted)
    spread = math.fsum((value - mean) ** 2 for value in wanted)
    apart = math.fsum((a - b) ** 2 for a, b in zip(wanted, given, strict=True))
    return SelfCheck(
        images=len(expected),
        same=sum(_best(a) == _best(b) for a, b in zip(expected, got, strict=True)),
        deviation=math.sqrt(apart / spread) if spread else float(apart > 0),
    )


def _best(row: Sequence[float]) -> int:
    return max(range(len(row)), key=row.__getitem__)
