"""How often the stated 95 % intervals of a latency hold the truth, by simulation.

    python -m benchmarks.coverage_of_intervals --runs 2000

Each world draws rounds of frames as a board might give them; its truth is the percentile of 400,000 frames. Runs stop
as a real one does: after the method's rounds, or later, when the median is sharp enough or time is out.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bpudeploy.results.compare import AT_LEAST
from bpudeploy.results.latency import mean_of, percentile
from bpudeploy.spec.recipe import BenchmarkSpec

METHOD = BenchmarkSpec()
FRAMES = METHOD.min_frames // METHOD.rounds
LONGEST = 3 * METHOD.rounds
F64 = NDArray[np.float64]
World = Callable[[np.random.Generator], F64]
"""Draws the latencies of one round, ms."""


def _alike(rng: np.random.Generator) -> F64:
    return 10 * np.exp(0.03 * rng.standard_normal(FRAMES))


def _rounds_differ(rng: np.random.Generator) -> F64:
    return 10 * np.exp(0.02 * rng.standard_normal() + 0.02 * rng.standard_normal(FRAMES))


def _rounds_differ_much(rng: np.random.Generator) -> F64:
    return 10 * np.exp(0.05 * rng.standard_normal() + 0.01 * rng.standard_normal(FRAMES))


def _spikes(rng: np.random.Generator) -> F64:
    spikes = (rng.random(FRAMES) < 0.03) * rng.exponential(0.5, FRAMES)
    return 10 * np.exp(0.01 * rng.standard_normal(FRAMES)) * (1 + spikes)


def _slow_drift(rng: np.random.Generator) -> F64:
    """Draw frames that follow each other closely: an AR(1) of 0.9."""
    steps = rng.standard_normal(FRAMES)
    for i in range(1, FRAMES):
        steps[i] = 0.9 * steps[i - 1] + math.sqrt(1 - 0.81) * steps[i]
    return 10 * np.exp(0.03 * steps)


def _busy_neighbour(rng: np.random.Generator) -> F64:
    """Draw a round that, one time in five, is slower by a third from end to end."""
    return 10 * np.exp(0.01 * rng.standard_normal(FRAMES)) * (1.3 if rng.random() < 0.2 else 1.0)


def _two_speeds(rng: np.random.Generator) -> F64:
    return np.where(rng.random(FRAMES) < 0.4, 10.0, 11.0) * np.exp(0.005 * rng.standard_normal(FRAMES))


WORLDS: dict[str, World] = {
    "frames alike": _alike,
    "rounds differ by 2 %": _rounds_differ,
    "rounds differ by 5 %": _rounds_differ_much,
    "3 % of frames spike": _spikes,
    "frames follow each other": _slow_drift,
    "a busy neighbour, 1 round in 5": _busy_neighbour,
    "two speeds, frame by frame": _two_speeds,
}
QUANTILES = (0.5, 0.9, 0.99)


@dataclass
class Count:
    """What came of the intervals of one percentile."""

    closed: int = 0
    held: int = 0
    half: float = 0.0


def measured(world: World, rng: np.random.Generator) -> list[list[float]]:
    """Draw the rounds of one benchmark, with the runner's own rule for when to stop."""
    rounds = [world(rng).tolist() for _ in range(METHOD.rounds)]
    while len(rounds) < LONGEST:
        p50 = percentile(rounds, 0.5)
        if p50.high is not None and (p50.high - p50.low) / 2 <= METHOD.precision / 100 * p50.value:
            break
        rounds.append(world(rng).tolist())
    return rounds


def coverage(world: World, runs: int, seed: int) -> dict[float, Count]:
    """Return by quantile what came of ``runs`` benchmarks in a world."""
    rng = np.random.default_rng(seed)
    many = np.concatenate([world(rng) for _ in range(400_000 // FRAMES)])
    truth = {q: float(np.quantile(many, q)) for q in QUANTILES}
    found = {q: Count() for q in QUANTILES}
    for _ in range(runs):
        rounds = measured(world, rng)
        for q, count in found.items():
            interval = percentile(rounds, q)
            count.held += interval.low <= truth[q] and (interval.high is None or truth[q] <= interval.high)
            if interval.high is not None:
                count.closed += 1
                count.half += (interval.high - interval.low) / 2 / interval.value
    return found


def false_verdicts(world: World, runs: int, seed: int) -> tuple[float, float]:
    """Return how many percent of comparisons of a thing with itself exclude 0, and how many give a verdict."""
    rng = np.random.default_rng(seed)
    told = verdicts = 0
    for _ in range(runs):
        a, b = ([np.log(np.median(world(rng))) for _ in range(METHOD.rounds)] for _ in "ab")
        change = mean_of([float(y - x) for x, y in zip(a, b, strict=True)])
        sure = change.low > 0 or change.high < 0
        told += sure
        verdicts += sure and abs(100 * math.expm1(change.value)) >= AT_LEAST
    return 100 * told / runs, 100 * verdicts / runs


def main() -> None:
    """Print one table of coverage and one of false verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"{args.runs} benchmarks a world, {METHOD.rounds} rounds of {FRAMES} frames or more, seed {args.seed}")
    print("held: intervals that hold the truth; closed: those that are bounded from above; half the width of those")
    print("A/A: comparisons of a thing with itself whose interval excludes 0, and that end in a verdict\n")
    print("| world | p50 held % | p90 held % (closed) | p99 held % (closed) | half width p50, p90, p99 | A/A false % |")
    print("|---|---|---|---|---|---|")
    for name, world in WORLDS.items():
        found = coverage(world, args.runs, args.seed)
        held = [f"{100 * c.held / args.runs:.1f}" for c in found.values()]
        stated = [f"{100 * c.closed / args.runs:.0f}" for c in found.values()]
        half = ", ".join(f"{100 * c.half / c.closed:.1f} %" if c.closed else "-" for c in found.values())
        told, verdicts = false_verdicts(world, args.runs, args.seed)
        print(
            f"| {name} | {held[0]} | {held[1]} ({stated[1]}) | {held[2]} ({stated[2]}) | {half} "
            f"| {told:.1f}, {verdicts:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
