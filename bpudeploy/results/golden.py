"""The golden self-check: does a release on a board give the host's answers, within rounding?"""

from __future__ import annotations

from collections.abc import Sequence

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

    The deviation is over all logits together: per image it would be meaningless with two classes.

    Raises:
        ValueError: the shapes differ.
    """
    import numpy as np

    if [len(row) for row in expected] != [len(row) for row in got] or not expected:
        raise ValueError("the board's logits are of another shape than the host's")
    host, board = np.array(expected, np.float64), np.array(got, np.float64)
    spread, difference = float(host.std()), float(np.sqrt(np.mean((host - board) ** 2)))
    return SelfCheck(
        images=len(host),
        same=int((host.argmax(axis=1) == board.argmax(axis=1)).sum()),
        deviation=difference / spread if spread else float(difference > 0),
    )
