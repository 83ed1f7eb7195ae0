"""Our quantization in the vendor's binary against the vendor's own calibration: one graph, the same images, one run.

    bpudeploy toolchain install
    .venv/bin/python -m benchmarks.in_binary recipes/inspection-cnn.yaml recipes/quickstart.yaml --images 40
    .venv/bin/python -m benchmarks.in_binary RECIPE --target rdk-x3 --methods recipe,max,kl

Every method gets the restructured graph, the recipe's calibration images, and hb_mapper up to its integer model, which
then runs on the evaluation images: bit-exactly what the binary would compute. The row of ``recipe`` is what `run`
deploys. Those of the vendor's calibration types are all int8, with Softmax on the BPU; "+ options" adds its
``asymmetric`` and ``bias_correction``; "+ our int16" compiles our prepared graph with our int16 choices (our
thresholds replaced by the vendor's); "all int16" is its ``set_all_nodes_int16``, whose binary is slower.
The error of the logits is the RMSE of the centred logits, relative to float's. A table in Markdown goes to stdout.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.int8_levers import accuracy_row
from bpudeploy.backends.base import CompileInputs
from bpudeploy.backends.horizon import network as files
from bpudeploy.backends.horizon.config import to_yaml
from bpudeploy.backends.horizon.hb_mapper import NEWEST_IR, prepare
from bpudeploy.backends.horizon.simulate import integers
from bpudeploy.backends.horizon.tool import find_tool
from bpudeploy.backends.registry import backend_names
from bpudeploy.backends.samples import Samples, Scores, spread
from bpudeploy.errors import BpudeployError
from bpudeploy.planning import pipeline
from bpudeploy.planning.products import Products
from bpudeploy.run.runner import run
from bpudeploy.spec.compile_options import CalibrationType, HbMapperOptions
from bpudeploy.spec.load import load_recipe
from bpudeploy.stage import StepContext
from bpudeploy.store.objects import default_root


@dataclass(frozen=True)
class Method:
    """``ours``: our prepared graph and int16 choices; otherwise the restructured graph."""

    calibration: CalibrationType
    ours: bool = False
    optimization: tuple[str, ...] = ()


_OPTIONS = ("asymmetric", "bias_correction")
METHODS = {
    "recipe": Method(CalibrationType.RECIPE, ours=True),
    **{kind: Method(CalibrationType(kind)) for kind in ("default", "max", "kl", "mix")},
    **{f"{kind} + options": Method(CalibrationType(kind), optimization=_OPTIONS) for kind in ("max", "kl")},
    **{f"{kind} + our int16": Method(CalibrationType(kind), ours=True) for kind in ("default", "max")},
    "max all int16": Method(CalibrationType.MAX, optimization=("set_all_nodes_int16",)),
}


@dataclass(frozen=True)
class Prepared:
    """A recipe after quantize/golden."""

    inputs: CompileInputs
    graph: Path
    pixels: NDArray[np.uint8]
    float_scores: Scores
    quantized_scores: Scores


def prepared(recipe: Path, settings: Sequence[str], images: int | None) -> Prepared:
    """Run a recipe's own steps, and take evenly spaced images of its evaluation set."""
    (resolved,) = load_recipe(recipe, list(settings), backend_names)
    steps = run(pipeline.plan(resolved).until("quantize/golden"), default_root(), lambda event: None)
    found = Products(steps.artifacts)
    march = resolved.target.march.value
    inputs = CompileInputs(found.prepared, found.quantized, found.calibration, found.preprocess, march)
    samples = Samples.read(found.evaluation.path)
    chosen = list(spread(len(samples), images or len(samples)))

    def subset(path: Path) -> Scores:
        scores = Scores.read(path)
        return Scores(scores.logits[chosen], scores.labels[chosen])

    floats, quantized = subset(found.float_scores.path), subset(found.quantized_scores.path)
    return Prepared(inputs, found.graph.path, samples.pixels[chosen], floats, quantized)


def logits_of(method: Method, given: Prepared, folder: Path) -> NDArray[np.float32]:
    """Return what the tool's integer model computes, float32 (N, classes)."""
    options = HbMapperOptions(minutes=240)
    config = prepare(given.inputs, options, folder, method.calibration)
    config["calibration_parameters"]["optimization"] = ";".join(method.optimization) or None
    if not method.ours:
        model = onnx.load(given.graph)
        model.ir_version = min(model.ir_version, NEWEST_IR)
        onnx.save(model, folder / files.MODEL)
        softmaxes = {node.name: {"ON": "BPU"} for node in model.graph.node if node.op_type == "Softmax"}
        config["model_parameters"]["node_info"] = softmaxes or None
        config["calibration_parameters"].update(run_on_cpu=None, run_on_bpu=None)
        (folder / files.CONFIG).write_text(to_yaml(config), encoding="utf-8")
    work = StepContext(folder, lambda event: None)
    return integers(find_tool("hb_mapper", options), work, folder, given.pixels, options)


def table(recipe: Path, settings: Sequence[str], methods: Sequence[str], images: int | None) -> Iterator[str]:
    """Yield the table of one recipe."""
    given = prepared(recipe, settings, images)
    truth = given.float_scores
    yield f"\n{recipe.stem}, {given.inputs.march}, {len(truth.labels)} images; float top-1 {100 * truth.top1:.1f} %\n"
    yield "| method | top-1 % | change, points (95 %) | as float % | logit error % | s |"
    yield "|---|---|---|---|---|---|"
    yield accuracy_row("QDQ graph, not the binary", given.quantized_scores.logits, truth, 0.0)
    for name in methods:
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            try:
                logits = logits_of(METHODS[name], given, Path(folder)).reshape(len(truth.labels), -1)
                yield accuracy_row(name, logits, truth, time.monotonic() - started)
            except BpudeployError as error:
                reason = str(error).strip().splitlines()[-1][:120].replace("|", "/")
                yield f"| {name} | failed: {reason} | | | | |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--target", default="rdk-x5")
    parser.add_argument("--images", type=int, help="evaluation images, evenly spaced (default: all)")
    parser.add_argument("--methods", default=",".join(METHODS), help=f"of {', '.join(METHODS)}; separated by commas")
    given = parser.parse_args(arguments)
    methods = [name.strip() for name in given.methods.split(",")]
    for recipe in given.recipes:
        for line in table(recipe, [f"target={given.target}"], methods, given.images):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
