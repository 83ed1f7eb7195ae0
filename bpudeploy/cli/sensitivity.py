"""The verb sensitivity: what each int8 tap alone does to the outputs, what int16 would cost, how far layers are off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.backends.registry import backend_names, load_backend
from bpudeploy.cli import render
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.spec.load import Resolved, load_recipe

if TYPE_CHECKING:
    from bpudeploy.quantize.findings import Candidate, Layers

_STEP = "sensitivity"


def sensitivity(recipe: Path, sets: Sequence[str], images: int, store: Path, as_json: bool) -> int:
    """Build up to the quantized model, before any repair; rank its int8 taps and its layers on calibration images."""
    if images < 1:
        raise UsageError(f"--images {images} is below 1", hint="4 to 8 are enough to rank by")
    for resolved in load_recipe(recipe, sets, backend_names):
        with render.Live(as_json) as live:
            ranked, layers = _look(resolved, images, store, live)
        render.show_sensitivity(resolved, ranked, layers, as_json)
    return ExitCode.OK


def _look(resolved: Resolved, images: int, store: Path, live: render.Live) -> tuple[tuple[Candidate, ...], Layers]:
    from bpudeploy.backends.samples import Normalisation, Samples
    from bpudeploy.plan import pipeline
    from bpudeploy.run.runner import run
    from bpudeploy.stages.layers import compare_layers
    from bpudeploy.stages.sensitivity import QuantizedNetwork, SensitivityOptions

    plan = pipeline.plan(resolved, load_backend(resolved.target.backend)).upto(pipeline.QUANTIZED)
    result = run(plan, store, live.draw)
    graph = plan.step(pipeline.QUANTIZED).inputs[0]
    prepared, quantized = (result.artifact(pipeline.QUANTIZED, i).path for i in (0, 1))
    samples = Samples.read(result.artifact(pipeline.CALIBRATION).path)
    normalise = Normalisation.read(result.artifact(pipeline.PREPROCESSING).path)
    options = SensitivityOptions(resolved.target.precision, resolved.recipe.quantize.weights.correct_bias)
    ranked = QuantizedNetwork(prepared, quantized, samples, normalise, options, _STEP, live.draw).ranked(images)
    original = result.artifact(graph.step, graph.index).path
    return ranked, compare_layers(original, quantized, samples, normalise, images, _STEP, live.draw)
