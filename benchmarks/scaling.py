"""How the wall time of many plans falls with Dask workers, against the executor of one machine.

``python -m benchmarks.scaling [--repeats 3] [--plans 8] [--seconds 2]`` prints a table. Two kinds of step: one that
waits (a compiler on another machine, a licence that is not free), which shows what scheduling costs, and one that
computes on one core, which cannot gain beyond this machine's cores. Each figure holds its cluster ready: the start of
workers is given apart. The order of the executors is drawn anew in each repeat.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from bpudeploy.planning.step import Plan, PlanBuilder
from bpudeploy.run.executors import open_executor
from bpudeploy.run.local import Budget
from bpudeploy.run.parallel import run_all
from bpudeploy.run.runner import RunResult
from bpudeploy.stage import Artifact, Kind, Stage, StepContext
from tests.run.toy import Toy

COUNTS = (1, 2, 4)


def waits(work: StepContext, options: Toy, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Wait ``options.sleep`` seconds."""
    time.sleep(options.sleep)
    (work.dir / "out").write_text(options.text)
    return (work.dir / "out",)


def computes(work: StepContext, options: Toy, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Use ``options.sleep`` seconds of one core."""
    value = 1
    while time.process_time() < options.sleep:
        value = value * 48271 % 2147483647
    (work.dir / "out").write_text(options.text)
    return (work.dir / "out",)


def plans_of(kind: str, count: int, seconds: float) -> list[Plan]:
    """Return plans of two steps after one another, which share none."""
    made = []
    for i in range(count):
        p = PlanBuilder(f"{kind}-{i}")
        run = waits if kind == "waits" else computes
        model = p.add(Stage("first", 1, (), {"out": Kind.MODEL}, run), "first", Toy(f"{i}", seconds / 2))["out"]
        p.add(Stage("second", 1, (Kind.MODEL,), {"out": Kind.BINARY}, run), "second", Toy(f"{i}b", seconds / 2), model)
        made.append(p.build())
    return made


def timed(where: str, jobs: int, plans: list[Plan]) -> tuple[float, float]:
    """Return the seconds from the first step's start to the end of all, and those before that."""
    began = time.perf_counter()
    first: list[float] = []
    ended: list[float] = []
    with TemporaryDirectory() as folder:
        executor = open_executor(where, Path(folder), Budget(jobs, 1e6))
        found = run_all(
            plans,
            Path(folder),
            executor,
            lambda _recipe, _event: first.append(time.perf_counter()) if not first else None,
            ended=lambda _index, _outcome: ended.append(time.perf_counter()),
        )
    assert all(isinstance(one, RunResult) for one in found), found
    return ended[-1] - first[0], first[0] - began


def main() -> None:
    """Measure, and print a table in Markdown."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--repeats", type=int, default=3)
    asked.add_argument("--plans", type=int, default=8)
    asked.add_argument("--seconds", type=float, default=2.0)
    args = asked.parse_args()
    executors = [(where, n) for n in COUNTS for where in ("local", f"dask:{n}")]
    walls: dict[tuple[str, str, int], list[float]] = {}
    starts: list[float] = []
    for _ in range(args.repeats):
        for kind in ("waits", "computes"):
            for where, n in random.sample(executors, len(executors)):
                wall, before = timed(where, n, plans_of(kind, args.plans, args.seconds))
                walls.setdefault((kind, where, n), []).append(wall)
                starts += [before] if where != "local" else []
    print(f"{args.plans} plans of {args.seconds:g} s, {args.repeats} repeats, {os.cpu_count()} cores,", end=" ")
    print(f"load {os.getloadavg()[0]:.1f} at the end; a cluster's start takes {statistics.median(starts):.1f} s more\n")
    print("| step | at once | local, s | Dask, s | Dask against local | Dask against its 1 worker |")
    print("|---|---|---|---|---|---|")
    for kind in ("waits", "computes"):
        one = statistics.median(walls[kind, "dask:1", 1])
        for n in COUNTS:
            here, there = walls[kind, "local", n], walls[kind, f"dask:{n}", n]
            middle, dask = statistics.median(here), statistics.median(there)
            print(f"| {kind} | {n} | {_spread(here)} | {_spread(there)} | {dask / middle:.2f} | {one / dask:.2f}x |")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
