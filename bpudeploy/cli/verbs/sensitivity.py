"""sensitivity: what each int8 tap does to the outputs, what int16 would cost, how far layers are from float."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Iterator, Sequence

from bpudeploy.backends.samples import Normalisation, Samples
from bpudeploy.cli.arguments import add, recipes, store
from bpudeploy.cli.output import Live, Output
from bpudeploy.cli.texts import worst_layers
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.planning import pipeline
from bpudeploy.planning.products import QUANTIZED, Products
from bpudeploy.quantize.findings import LayerReport, PromotionCandidate
from bpudeploy.run.runner import run as run_plan
from bpudeploy.spec.load import LoadedRecipe
from bpudeploy.stages.compare import compare_layers
from bpudeploy.stages.sensitivity import QuantizedNetwork

EXAMPLE = """\
  bpudeploy sensitivity recipes/quickstart.yaml --images 4

Of the network as quantize makes it, before any repair. The cost is predicted from operation counts, not measured."""
_STEP = "sensitivity"


def arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "recipe", "--set", "--json")
    parser.add_argument("--images", type=int, default=8, help="calibration images to use (default: 8)")
    add(parser, "--store")


def run(args: Namespace, out: Output) -> ExitCode:
    """Build up to the quantized model, before any repair; rank its int8 taps and its layers on calibration images."""
    if args.images < 1:
        raise UsageError(f"--images {args.images} is below 1", hint="4 to 8 are enough to rank by")
    for resolved in recipes(args):
        with out.live() as live:
            ranked, layers = _rank(resolved, args, live)
        document = {
            "recipe": resolved.recipe.name,
            "target": resolved.target.name,
            "candidates": [c.model_dump(mode="json") for c in ranked],
            "layers": layers.model_dump(mode="json"),
        }
        out.show(document, _text(resolved, ranked, layers))
    return ExitCode.OK


def _rank(resolved: LoadedRecipe, args: Namespace, live: Live) -> tuple[tuple[PromotionCandidate, ...], LayerReport]:
    plan = pipeline.plan(resolved).upto(QUANTIZED)
    steps = run_plan(plan, store(args), live.draw).artifacts
    products, source = Products(steps), plan.step(QUANTIZED).inputs[0]
    quantized = products.quantized.path
    samples = Samples.read(products.calibration.path)
    normalise = Normalisation.read(products.preprocess.path)
    rules, corrected = resolved.target.precision, resolved.recipe.quantize.weights.correct_bias
    prepared = products.prepared.path
    network = QuantizedNetwork(prepared, quantized, samples, normalise, rules, corrected, _STEP, live.draw)
    ranked = network.ranked(args.images)
    original = steps[source.step][source.output].path
    return ranked, compare_layers(original, quantized, samples, normalise, args.images, _STEP, live.draw)


def _text(resolved: LoadedRecipe, ranked: Sequence[PromotionCandidate], layers: LayerReport) -> Iterator[str]:
    yield f"{resolved.recipe.name} for {resolved.target.name}: int8 taps, the best candidates for int16 first"
    yield f"  {'alone':>9}  {'int16':>8}  tap, and the products that read it"
    for c in ranked:
        cost = "n/a" if c.cost is None else f"{100 * c.cost:+.2f} %"
        yield f"  {c.error:>9.2e}  {cost:>8}  {c.tap}: {', '.join(c.products)}"
    yield "  alone: squared error of the outputs over their variance when only this tap is rounded"
    yield "  int16: predicted increase of the time, from operation counts; n/a: this march has no int16 there"
    yield from worst_layers(layers, len(layers.layers))
