"""Detectors of regressions on the same seeded nights, morning by morning: who finds them, how late, and who cries wolf.

    python -m benchmarks.detectors [--seeds 40] [--null 100] [--json FILE]
    python -m benchmarks.detectors --tune [--seeds 12]

Otava pins an older numpy, so it and asv are installed in an environment of their own:

    python -m venv detectors; detectors/bin/pip install apache-otava==0.8.0 asv==0.6.6 ruptures "pydantic>=2.12" pyyaml

Each morning a detector sees the nights so far. It raises a regression when it names a first bad night that is more
than 3 nights from all it has named before. Raised within 7 nights of a true step's first bad night, and naming that
within 2 nights, is a hit; later than 7 is a miss; anywhere else is a false alarm. Precision, recall, F1 are of these.
On series without steps every alarm is false. Offline, the whole series is seen at once, and changes of either direction
count, one to one within 2 nights (the Turing benchmark of van den Burg and Williams, arXiv 2003.06222, allows 5).
Reported seeds begin at 1000; limits and settings were chosen on seeds below 1000 (--tune).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.detectors_peers import SAME, Detector, chosen, defaults, grid
from benchmarks.detectors_worlds import Lab, World, draw

WITHIN = 7
NEAR = 2
_FIRST_REPORTED = 1000


@dataclass(frozen=True)
class Outcome:
    """What a detector did in one world."""

    nights: int
    regressions: int
    delays: tuple[int, ...]
    """Of the hits, nights after the first bad night."""
    errors: tuple[int, ...]
    """Of the hits, named minus true first bad night."""
    late: int
    false: int
    changes: int
    offline_hits: int
    offline_false: int


@dataclass(frozen=True)
class Row:
    """One line of the table; pairs are 95 % intervals."""

    detector: str
    lab: str
    precision: float
    recall: float
    f1: float
    f1_interval: tuple[float, float]
    offline_f1: float
    offline_interval: tuple[float, float]
    delay: float | None
    exact: float | None
    """Share of the hits whose first bad night is the true one."""
    regressions: int
    false_alarms: int
    null_nights: int
    per_1000: float
    per_1000_interval: tuple[float, float]


def mornings(world: World, detector: Detector) -> list[tuple[int, int]]:
    """Return the regressions raised: (first bad night named, morning), as indices of points."""
    raised: list[tuple[int, int]] = []
    points = world.series.points
    for morning in range(1, len(points) + 1):
        for one in sorted(detector.detect(replace(world.series, points=points[:morning]))):
            if one.regression and not any(abs(one.first - first) <= SAME for first, _ in raised):
                raised.append((one.first, morning - 1))
    return raised


def outcome(world: World, detector: Detector) -> Outcome:
    """Run a detector through a world."""
    left = list(world.regressions)
    delays, errors, late, false = [], [], 0, 0
    for named, morning in mornings(world, detector):
        true = next((first for first in left if abs(first - named) <= NEAR and first <= morning), None)
        if true is None:
            false += 1
            continue
        left.remove(true)
        if morning - true > WITHIN:
            late += 1
        else:
            delays.append(morning - true)
            errors.append(named - true)
    steps, hits, wrong = list(world.steps), 0, 0
    for one in detector.detect(world.series):
        true = next((first for first in steps if abs(first - one.first) <= NEAR), None)
        if true is None:
            wrong += 1
        else:
            steps.remove(true)
            hits += 1
    return Outcome(
        len(world.series.points),
        len(world.regressions),
        tuple(delays),
        tuple(errors),
        late,
        false,
        len(world.steps),
        hits,
        wrong,
    )


def _run(seed: int, lab: Lab, detectors: Sequence[str], tuning: bool, steps: bool) -> list[Outcome]:
    world = draw(seed, lab, steps=steps)
    return [outcome(world, one) for one in known(tuning) if named(one) in detectors]


def known(tuning: bool) -> list[Detector]:
    """Return the detectors of a run."""
    return grid() if tuning else [*defaults(), *chosen()]


def named(detector: Detector) -> str:
    """Return a detector's name with its setting."""
    return f"{detector.family} ({detector.setting})"


def f1(hits: int, false: int, truth: int) -> float:
    """Return the harmonic mean of precision and recall."""
    return 2 * hits / max(hits + false + truth, 1)


def row(name: str, lab: str, stepped: Sequence[Outcome], null: Sequence[Outcome]) -> Row:
    """Sum up; F1's intervals are percentile bootstraps over series, that of false alarms is Garwood's for counts."""
    from scipy.stats import chi2

    online = np.array([(len(o.delays), o.false, o.regressions) for o in stepped])
    offline = np.array([(o.offline_hits, o.offline_false, o.changes) for o in stepped])
    picks = np.random.default_rng(1).integers(len(stepped), size=(2000, len(stepped)))
    intervals = []
    for counts in (online, offline):
        draws = sorted(f1(*(int(v) for v in counts[pick].sum(axis=0))) for pick in picks)
        intervals.append((draws[50], draws[1949]))
    hits, false, truth = (int(v) for v in online.sum(axis=0))
    alarms, nights = sum(o.false for o in null), sum(o.nights for o in null)
    low = float(chi2.ppf(0.025, 2 * alarms)) / 2 if alarms else 0.0
    high = float(chi2.ppf(0.975, 2 * alarms + 2)) / 2
    delays = [d for o in stepped for d in o.delays]
    errors = [e for o in stepped for e in o.errors]
    return Row(
        detector=name,
        lab=lab,
        precision=hits / max(hits + false, 1),
        recall=hits / max(truth, 1),
        f1=f1(hits, false, truth),
        f1_interval=intervals[0],
        offline_f1=f1(*(int(v) for v in offline.sum(axis=0))),
        offline_interval=intervals[1],
        delay=statistics.median(delays) if delays else None,
        exact=sum(e == 0 for e in errors) / len(errors) if errors else None,
        regressions=truth,
        false_alarms=alarms,
        null_nights=nights,
        per_1000=1000 * alarms / max(nights, 1),
        per_1000_interval=(1000 * low / max(nights, 1), 1000 * high / max(nights, 1)),
    )


def compare(first: int, seeds: int, null: int, tuning: bool, workers: int) -> list[Row]:
    """Run all detectors on the same series, ours on ``null`` further ones without steps."""
    names = [named(one) for one in known(tuning)]
    mine = [name for name in names if name.startswith("bpudeploy")]
    some, more = range(first, first + seeds), range(first + seeds, first + seeds + null)
    rows = []
    with ProcessPoolExecutor(workers) as pool:
        for lab in (Lab.FULL,) if tuning else Lab:
            stepped, calm = (
                list(pool.map(partial(_run, lab=lab, detectors=names, tuning=tuning, steps=steps), some))
                for steps in (True, False)
            )
            further = list(pool.map(partial(_run, lab=lab, detectors=mine, tuning=tuning, steps=False), more))
            for i, name in enumerate(names):
                extra = [o[mine.index(name)] for o in further] if name in mine else []
                rows.append(row(name, lab.value, [o[i] for o in stepped], [*(o[i] for o in calm), *extra]))
                print(shown(rows[-1]), flush=True)
    return rows


def shown(row: Row) -> str:
    """Return a line of the Markdown table."""
    lab = row.lab.split(":")[0]
    delay = "-" if row.delay is None else f"{row.delay:g}"
    exact = "-" if row.exact is None else f"{100 * row.exact:.0f} %"
    (low, high), (off_low, off_high), (least, most) = row.f1_interval, row.offline_interval, row.per_1000_interval
    return (
        f"| {row.detector} | {lab} | {row.precision:.2f} | {row.recall:.2f} | "
        f"**{row.f1:.2f}** ({low:.2f} to {high:.2f}) "
        f"| {row.offline_f1:.2f} ({off_low:.2f} to {off_high:.2f}) | {delay} | {exact}"
        f" | **{row.per_1000:.2f}** ({least:.2f} to {most:.2f}), {row.false_alarms} in {row.null_nights} |"
    )


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40, help="series with steps and as many without, in each lab")
    parser.add_argument("--null", type=int, default=100, help="further series without steps, ours only, in each lab")
    parser.add_argument("--tune", action="store_true", help="try settings, on seeds kept for that")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    for package, wanted in (("otava", "apache-otava==0.8.0"), ("asv", "asv==0.6.6"), ("ruptures", "ruptures==1.1.10")):
        if find_spec(package) is None:
            sys.exit(f"{package} is not installed: pip install {wanted} (see python -m benchmarks.detectors --help)")
    print("| detector | lab | precision | recall | F1 online | F1 offline | delay | first night | alarms per 1,000 |")
    print("|---|---|---|---|---|---|---|---|---|")
    first = 0 if args.tune else _FIRST_REPORTED
    rows = compare(first, args.seeds, 0 if args.tune else args.null, args.tune, args.workers)
    if args.json:
        args.json.write_text(json.dumps([asdict(one) for one in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
