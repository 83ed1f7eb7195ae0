"""What each declared approximation costs and saves on the quickstart's real model, one at a time.

.venv/bin/python benchmarks/approximations.py        about 8 minutes on two cores

Top-1 is of the recipe's 200 evaluation images, its loss is paired with float on the same images. Latency is
onnxruntime's on this machine's CPU, one image, float32: the median of t(approximate) / t(exact) over pairs of frames
measured in turn, with its distribution-free 95 % interval. It says nothing of a BPU.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from bpudeploy.approximate.cost import multiply_adds
from bpudeploy.backends.samples import Normalisation, Samples, Scores
from bpudeploy.events import Event, Note
from bpudeploy.planning import pipeline
from bpudeploy.planning.products import EVALUATION, FLOAT_SCORES, GRAPH, PREPROCESSING
from bpudeploy.restructure.edit import editable_graph
from bpudeploy.results.latency import percentile
from bpudeploy.results.statistics import paired_drop
from bpudeploy.run.runner import RunResult, run
from bpudeploy.spec.load import load_recipe
from bpudeploy.stages.approximate import approximations
from bpudeploy.store.objects import default_root

RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
OPTIONS = (
    "gelu=tanh",
    "gelu=quick",
    "gelu=piecewise",
    "drop_blocks=[5]",
    "drop_blocks=[10]",
    "drop_blocks=[9, 10]",
    "linear_blocks=[[5, 5]]",
    "linear_blocks=[[10, 10]]",
    "linear_blocks=[[9, 10]]",
    "linear_blocks=[[2, 3]]",
    "parallel_blocks=[[5, 6]]",
    "parallel_blocks=[[9, 10]]",
    "parallel_blocks=[[3, 4], [5, 6], [7, 8], [9, 10]]",
    "prune_heads={share: 0.1}",
    "prune_heads={share: 0.25}",
    "reduce_tokens={after_block: 5, factor: 2}",
    "reduce_tokens={after_block: 8, factor: 2}",
)
PAIRS = 80


def build(option: str | None) -> tuple[RunResult, str]:
    """Run the plan up to the option's own step (the exact graph's without one); return it and that step."""
    (resolved,) = load_recipe(RECIPE, [f"restructure.approximate.{option}"] if option else [])
    changes = approximations(resolved.recipe.restructure.approximate)
    last = changes[-1].step if changes else GRAPH

    def tell(event: Event) -> None:
        if isinstance(event, Note) and event.step.startswith("approximate/"):
            print(f"  {event.text}", file=sys.stderr)

    return run(pipeline.plan(resolved).until(last), default_root(), tell), last


def open_still(path: Path) -> Any:
    """Return a session whose threads sleep between runs: idle ones that spin would slow its rival down."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def ratio(exact: Any, changed: Any, image: Any) -> str:
    """Return the median of paired latency ratios with its interval."""
    ratios = []
    for i in range(PAIRS + 5):
        took = []
        for session in (exact, changed) if i % 2 else (changed, exact):
            start = time.perf_counter()
            session.run(None, {session.get_inputs()[0].name: image})
            took.append(time.perf_counter() - start)
        first, second = took if i % 2 else took[::-1]
        if i >= 5:
            ratios.append(second / first)
    middle = percentile([[one] for one in ratios], 0.5)  # pairs are apart: each is a round of its own
    return f"{middle.value:.2f} ({middle.low:.2f} to {middle.high or math.inf:.2f})"


def main() -> None:
    """Print one row for each option."""
    result, step = build(None)
    truth = Scores.read(result.artifact(FLOAT_SCORES).path)
    right = [bool(x) for x in truth.logits.argmax(axis=1) == truth.labels]
    normalise = Normalisation.read(result.artifact(PREPROCESSING).path)
    image = normalise.apply(Samples.read(result.artifact(EVALUATION).path).pixels[:1])
    exact = open_still(result.artifact(step).path)
    print(f"float top-1 {100 * truth.top1:.1f} % of {len(right)} images, {PAIRS} pairs of frames")
    print(
        "| option | top-1 % | lost, points (95 %), p | as float % | nodes | G multiply-adds | latency / exact (95 %) |"
    )
    print("|---|---|---|---|---|---|---|")
    for option in (None, *OPTIONS):
        result, step = build(option)
        graph = result.artifact(step)
        scores = Scores.read(result.artifact(step, "scores").path)
        chosen = scores.logits.argmax(axis=1)
        drop = paired_drop(right, [bool(x) for x in chosen == scores.labels])
        model = onnx.load(graph.path)
        cells = (
            option or "none (exact)",
            f"{100 * scores.top1:.1f}",
            f"{drop.points.value:+.1f} ({drop.points.low:.1f} to {drop.points.high:.1f}), {drop.p_value:.2g}",
            f"{100 * np.mean(chosen == truth.logits.argmax(axis=1)):.1f}",
            str(len(model.graph.node)),
            f"{multiply_adds(editable_graph(model)) / 1e9:.2f}",
            ratio(exact, open_still(graph.path), image),
        )
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
