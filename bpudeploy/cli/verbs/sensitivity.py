"""sensitivity: what each int8 tap does to the outputs, what int16 would cost, how far layers are from float."""

from __future__ import annotations

import argparse
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from bpudeploy.backends.base import SimulatingBackend
from bpudeploy.backends.registry import load_backend
from bpudeploy.backends.samples import Normalisation, Samples
from bpudeploy.cli.arguments import add, recipes, store
from bpudeploy.cli.output import Live, Output, table
from bpudeploy.cli.texts import worst_layers
from bpudeploy.conformance.profile import Profile
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.files import write_atomically
from bpudeploy.planning import pipeline
from bpudeploy.planning.products import BINARY, QUANTIZED, Products
from bpudeploy.quantize.findings import LayerReport, PromotionCandidate
from bpudeploy.results.drawing import page
from bpudeploy.run.runner import run as run_plan
from bpudeploy.spec.load import LoadedRecipe
from bpudeploy.stage import StepContext
from bpudeploy.stages.binary_layers import BinaryLayer, binary_layers
from bpudeploy.stages.compare import compare_layers
from bpudeploy.stages.compile import CompileStageOptions, simulates
from bpudeploy.stages.sensitivity import QuantizedNetwork

EXAMPLE = """\
  bpudeploy sensitivity recipes/quickstart.yaml --images 4
  bpudeploy sensitivity recipes/inspection-cnn.yaml --set target=rdk-x5 --in-binary --page layers.html

Of the network as quantize makes it, before any repair. The cost is predicted from operation counts, not measured."""
_STEP = "sensitivity"


def arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "recipe", "--set", "--json")
    parser.add_argument("--images", type=int, default=8, help="calibration images to use (default: 8)")
    parser.add_argument(
        "--in-binary", action="store_true", help="compile, and compare the tensors of the binary with float"
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="with --in-binary: write the table as an HTML page")
    add(parser, "--store")


def run(args: Namespace, out: Output) -> ExitCode:
    """Build up to the quantized model, before any repair; rank its int8 taps and its layers on calibration images."""
    if args.images < 1:
        raise UsageError(f"--images {args.images} is below 1", hint="4 to 8 are enough to rank by")
    if args.page is not None and not args.in_binary:
        raise UsageError("--page is a table of the binary's layers", hint="add --in-binary")
    for resolved in recipes(args):
        if args.in_binary:
            _show_binary(resolved, args, out)
            continue
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


def _show_binary(resolved: LoadedRecipe, args: Namespace, out: Output) -> None:
    with out.live() as live:
        layers, profile = _in_binary(resolved, args, live)
    values = {
        "recipe": resolved.recipe.name,
        "target": resolved.target.name,
        "images": args.images,
        "total_us": profile.total_us,
    }
    if args.page is not None:
        write_atomically(args.page, page("layers.html.jinja", {**values, "layers": layers}))
    document = {**values, "layers": [layer.model_dump(mode="json") for layer in layers]}
    out.show(document, _binary_text(resolved, layers, args.page))


def _in_binary(resolved: LoadedRecipe, args: Namespace, live: Live) -> tuple[tuple[BinaryLayer, ...], Profile]:
    """Compile, and compare what the binary stores with float.

    Raises:
        UsageError: the target's backend cannot run its binary here.
    """
    from bpudeploy.quantize.sensitivity import can_be_int16

    backend, plan = load_backend(resolved.target.backend), pipeline.plan(resolved).until(BINARY)
    chosen = CompileStageOptions.of(resolved, backend)
    if not isinstance(backend, SimulatingBackend) or not simulates(backend, chosen):
        raise UsageError(
            f"the binary for {resolved.target.name} cannot be run on this machine",
            hint="--in-binary needs rdk-x3, rdk-x5 or rdk-ultra, and `bpudeploy toolchain install`",
        )
    products = Products(run_plan(plan, store(args), live.draw).artifacts)
    samples, normalise = Samples.read(products.calibration.path), Normalisation.read(products.preprocess.path)
    rules, corrected = resolved.target.precision, resolved.recipe.quantize.weights.correct_bias
    files = products.prepared.path, products.quantized.path
    network = QuantizedNetwork(*files, samples, normalise, rules, corrected, _STEP, live.draw)
    costs = {tap: network.slowdown([tap]) - 1.0 for tap in can_be_int16(network.quantized, rules)}
    profile, pixels = backend.profile(products.compiler_findings.path), samples.pixels[: args.images]
    with tempfile.TemporaryDirectory(prefix="bpudeploy-layers-") as folder:
        work = StepContext(Path(folder), live.draw)
        integers = backend.tensors(work, products.simulator, pixels, chosen.options)
        return binary_layers(*files, pixels, normalise, integers, profile, costs), profile


def _binary_text(resolved: LoadedRecipe, layers: Sequence[BinaryLayer], written: Path | None) -> Iterator[str]:
    yield f"{resolved.recipe.name} for {resolved.target.name}: tensors of the binary, the largest error first"
    yield from table(
        [">error", ">cosine", "precision", ">threshold", ">us", ">int16", "tensor"],
        [
            [
                f"{100 * layer.error:.2f} %",
                f"{layer.cosine:.5f}",
                layer.precision.value,
                f"{layer.threshold:.4g}",
                f"{layer.compute_us:.0f}" if layer.compute_us is not None else "",
                f"{100 * layer.promoted:+.2f} %" if layer.promoted is not None else "",
                f"{layer.tensor} ({layer.op})",
            ]
            for layer in layers
        ],
    )
    yield "  error: of the integers, simulated bit-exactly, against float; it includes that of all layers before"
    yield "  us: the compiler's estimate; empty if the node was merged. int16: predicted increase of the time"
    if written is not None:
        yield f"  page: {written}"


def _text(resolved: LoadedRecipe, ranked: Sequence[PromotionCandidate], layers: LayerReport) -> Iterator[str]:
    yield f"{resolved.recipe.name} for {resolved.target.name}: int8 taps, the best candidates for int16 first"
    yield f"  {'alone':>9}  {'int16':>8}  tap, and the products that read it"
    for c in ranked:
        cost = "n/a" if c.cost is None else f"{100 * c.cost:+.2f} %"
        yield f"  {c.error:>9.2e}  {cost:>8}  {c.tap}: {', '.join(c.products)}"
    yield "  alone: squared error of the outputs over their variance when only this tap is rounded"
    yield "  int16: predicted increase of the time, from operation counts; n/a: this march has no int16 there"
    yield from worst_layers(layers, len(layers.layers))
