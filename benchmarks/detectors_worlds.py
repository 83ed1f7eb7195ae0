"""Seeded series of nights with a known truth, for ``benchmarks.detectors``.

A lab's night is a level, a board's offset, a slope over temperature, drift and noise, in percent; some nights are
throttled and marked, some throttled and not marked, some missing. What is drawn is in the table of ``draw``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from bpudeploy.nightly.series import Point, Scale, Series

NIGHTS = 150
AT_LEAST = 1.0
_START = datetime(2026, 1, 1, 2, tzinfo=UTC)
_APART = 25
"""Nights between two steps, and before the first."""
_TAIL = 10

Floats = npt.NDArray[np.float64]


class Noise(StrEnum):
    """The noise of a night, of standard deviation sigma but for wild ones."""

    NORMAL = "normal"
    HEAVY = "heavy-tailed (t, 3 degrees)"
    TWO_SPEED = "two-speed (a quarter of the nights slower)"
    LASTING = "lasting (AR 1, 0.3)"


class Lab(StrEnum):
    """What else differs from night to night."""

    PLAIN = "plain: one board, no temperature"
    FULL = "full: boards, temperature, drift"


@dataclass(frozen=True)
class World:
    """A series and the truth about it."""

    series: Series
    regressions: tuple[int, ...]
    """Index of each first bad night among the points."""
    steps: tuple[int, ...]
    """Of every change, improvements included."""
    noise: Noise
    sigma: float
    heights: tuple[float, ...]
    """Of the regressions, percent."""


def draw(seed: int, lab: Lab, *, steps: bool) -> World:
    """Draw a world.

    | what | plain and full labs |
    |---|---|
    | sigma | 0.3 to 3 %, log-uniform; of any ``Noise`` |
    | steps | none, or 1 or 2 of 1 to 10 % (log-uniform), 7 of 10 for the worse |
    | throttled, marked | 3 % of the nights, 10 to 60 % slower |
    | throttled, not marked | 2 % of the nights, 5 to 40 % slower, one in five for two nights |
    | missing | 5 % of the nights, and in every third series a week |

    | what | full lab only |
    |---|---|
    | boards | a pool of 1, 2 or 4, offsets of sd 2 %, any board each night; or one that replaces another for good |
    | temperature | wanders, and a hot week of 8 to 15 degrees; 0, or 0.05 to 0.25 % a degree |
    | drift | in half of the series up to 0.02 % a night, either way |
    """
    random = np.random.default_rng([seed, list(Lab).index(lab), int(steps)])
    sigma = float(np.exp(random.uniform(np.log(0.3), np.log(3.0))))
    noise = list(Noise)[int(random.integers(len(Noise)))]
    percent = sigma * _noise(random, noise)
    firsts, heights = _steps(random) if steps else ([], [])
    for first, height in zip(firsts, heights, strict=True):
        percent[first:] += 100 * np.log1p(height / 100)
    boards, warm = _surroundings(random, percent) if lab is Lab.FULL else (["a"] * NIGHTS, np.zeros(NIGHTS))
    spoilt = random.random(NIGHTS) < 0.03
    percent += np.where(spoilt, random.uniform(10, 60, NIGHTS), _unmarked(random))
    there = random.random(NIGHTS) >= 0.05
    if random.random() < 1 / 3:
        gap = int(random.integers(10, NIGHTS - 10))
        there[gap : gap + 7] = False
    level = float(np.exp(random.uniform(np.log(0.5), np.log(200))))
    kept = [int(night) for night in np.flatnonzero(there)]
    points = tuple(
        Point(
            _START + timedelta(days=night),
            level * float(np.exp(percent[night] / 100)),
            boards[night],
            45 + float(warm[night]) if lab is Lab.FULL else None,
            bool(spoilt[night]),
        )
        for night in kept
    )
    index = {first: sum(night < first for night in kept) for first in firsts}
    worse = [(index[f], h) for f, h in zip(firsts, heights, strict=True) if h > 0]
    return World(
        Series(points, Scale.RATIO, higher_is_worse=True, at_least=AT_LEAST),
        tuple(first for first, _ in worse),
        tuple(index[first] for first in firsts),
        noise,
        sigma,
        tuple(height for _, height in worse),
    )


def _noise(random: np.random.Generator, noise: Noise) -> Floats:
    normal = random.normal(size=NIGHTS)
    if noise is Noise.HEAVY:
        return np.asarray(random.standard_t(3, NIGHTS) / np.sqrt(3))
    if noise is Noise.TWO_SPEED:  # a mixture of variance 1 whose parts are 4 of their own deviations apart
        slow = random.random(NIGHTS) < 0.25
        return np.asarray((normal + 4 * (slow - 0.25)) / np.sqrt(1 + 16 * 0.1875))
    if noise is Noise.LASTING:
        for night in range(1, NIGHTS):
            normal[night] = 0.3 * normal[night - 1] + np.sqrt(1 - 0.09) * normal[night]
    return np.asarray(normal)


def _steps(random: np.random.Generator) -> tuple[list[int], list[float]]:
    count = int(random.integers(1, 3))
    while True:
        firsts = sorted(int(first) for first in random.integers(_APART, NIGHTS - _TAIL, count))
        if all(later - earlier >= _APART for earlier, later in pairwise(firsts)):
            break
    sizes = np.exp(random.uniform(0.0, np.log(10.0), count))
    return firsts, [float(size if random.random() < 0.7 else -size) for size in sizes]


def _unmarked(random: np.random.Generator) -> Floats:
    slower = np.zeros(NIGHTS)
    for night in np.flatnonzero(random.random(NIGHTS) < 0.02):
        slower[night : night + (2 if random.random() < 0.2 else 1)] = random.uniform(5, 40)
    return slower


def _surroundings(random: np.random.Generator, percent: Floats) -> tuple[list[str], Floats]:
    """Add offsets, temperature and drift to ``percent``; return each night's board and degrees above 45."""
    names = "abcd"[: int(random.choice([1, 2, 4]))]
    boards = [names[int(i)] for i in random.integers(len(names), size=NIGHTS)]
    if random.random() < 0.25:
        swap = int(random.integers(20, NIGHTS - 20))
        boards[swap:] = ["new"] * (NIGHTS - swap)
    offsets = {name: float(random.normal(0, 2)) for name in [*names, "new"]}
    percent += np.array([offsets[board] for board in boards])
    warm = random.normal(0, 1, NIGHTS) + 3 * np.sin(np.arange(NIGHTS) / 58 + random.uniform(0, 6))
    hot = int(random.integers(5, NIGHTS - 7))
    warm[hot : hot + 7] += random.uniform(8, 15)
    percent += warm * (random.uniform(0.05, 0.25) if random.random() < 0.5 else 0.0)
    if random.random() < 0.5:
        percent += random.uniform(-0.02, 0.02) * np.arange(NIGHTS)
    return boards, np.asarray(warm)
