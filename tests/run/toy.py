"""Five toy steps with the pipeline's shape: to test keys, locks and crashes without a network.

Run as a program, ``python -m tests.run.toy ROOT COUNT SLEEP [FORCE]`` prints the steps that ran.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpudeploy.planning.step import Plan, PlanBuilder
from bpudeploy.run.runner import run
from bpudeploy.stage import Artifact, Kind, Stage, StepContext


@dataclass(frozen=True)
class Toy:
    """``text`` enters the key; ``sleep`` (seconds) does not."""

    text: str
    sleep: float = 0.0

    def canonical(self) -> Mapping[str, Any]:
        return {"text": self.text}


def stage(
    name: str,
    takes: tuple[Kind, ...],
    gives: Kind,
    make: Callable[[str, list[str]], str],
    version: int = 1,
    fingerprint: Mapping[str, str] | None = None,
) -> Stage[Toy]:
    """Return a stage whose artifact is ``make(options.text, texts of the inputs)``."""

    def work(work: StepContext, options: Toy, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
        out = work.dir / "out"
        out.write_text("half of it")
        time.sleep(options.sleep)
        out.write_text(make(options.text, [a.path.read_text() for a in inputs]))
        return (out,)

    return Stage(name, version, takes, {"out": gives}, work, fingerprint=fingerprint or {})


def joined(text: str, inputs: list[str]) -> str:
    """Depend on everything."""
    return f"{text}({','.join(inputs)})"


@dataclass(frozen=True)
class Change:
    """What a user or a new version may change."""

    weights: str = "w"
    images: str = "i"
    count: str = "64"
    tolerance: str = "1e-5"
    restructure_version: int = 1
    tool: str = "1.0"
    recipe: str = "toy"


PLAIN = Change()


def toy_plan(change: Change = PLAIN, sleep: float = 0.0) -> Plan:
    """Return fetch/weights, fetch/calibration, restructure, quantize, compile."""
    p = PlanBuilder(change.recipe)
    weights = p.add(stage("w", (), Kind.MODEL, joined), "fetch/weights", Toy(change.weights, sleep))["out"]
    images = Toy(change.images + change.count, sleep)
    data = p.add(stage("d", (), Kind.SAMPLES, joined), "fetch/calibration", images)["out"]
    same = stage("r", (Kind.MODEL,), Kind.GRAPH, lambda _, i: f"graph of {i[0]}", version=change.restructure_version)
    graph = p.add(same, "restructure", Toy(change.tolerance, sleep), weights)["out"]
    tool = {"compiler": change.tool}
    quantize = stage("q", (Kind.GRAPH, Kind.SAMPLES), Kind.QUANTIZED, joined)
    quantized = p.add(quantize, "quantize", Toy("q", sleep), graph, data)["out"]
    p.add(stage("c", (Kind.QUANTIZED,), Kind.BINARY, joined, fingerprint=tool), "compile", Toy("c", sleep), quantized)
    return p.build()


if __name__ == "__main__":
    result = run(
        toy_plan(Change(count=sys.argv[2]), float(sys.argv[3])), Path(sys.argv[1]), lambda event: None, sys.argv[4:]
    )
    sys.stdout.write(" ".join(result.ran) + "\n")
