"""estimate: the predicted latency of a network on a board. The word predicted stands beside every figure."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.backends.registry import backend_names
from bpudeploy.cli.arguments import add_network, require_image_size, targets_named
from bpudeploy.cli.output import Output, table, wrap
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.inspection import load_models
from bpudeploy.predict.estimate import Estimate, NodeTime
from bpudeploy.predict.march import MarchModel, Term, model_of
from bpudeploy.predict.prediction import Prediction, predict
from bpudeploy.predict.workload import Workload, count_workload
from bpudeploy.spec.load import is_file, list_targets, load_recipe, load_target
from bpudeploy.spec.precision import Precision
from bpudeploy.spec.quantize import QuantizeSpec
from bpudeploy.spec.target import March, Target

if TYPE_CHECKING:
    import onnx

    from bpudeploy.inspection import InspectedModel

EXAMPLE = """\
  bpudeploy estimate recipes/quickstart.yaml --target rdk-x3,rdk-x5,rdk-s100
  bpudeploy estimate deit_small_patch16_224 --target rdk-x5 --top 20
  bpudeploy estimate deit_tiny_patch16_224 --target rdk-x5 --with-compiler
  bpudeploy estimate deit_tiny_patch16_224 --target rdk-x5 --json

Predicted by a model fitted to published latencies of other networks (docs/explanation/latency-model.md).
No board is used, no compiler unless asked for, no weights are fetched, nothing is measured."""
_PAPER = "the paper reports up to 3.8x, on boards and networks that its abstract does not name"
_TERMS = {
    Term.COMPUTE: "multiply-accumulates",
    Term.WEIGHTS: "reading weights",
    Term.ELEMENTWISE: "elementwise operators and look-ups",
    Term.LAYOUT: "layout changes",
    Term.ATTENTION: "memory traffic of attention",
    Term.INSTRUCTIONS: "starting nodes",
    Term.CPU_BYTES: "memory traffic of CPU nodes",
    Term.CPU_MACS: "multiply-accumulates on the CPU",
    Term.HANDOVER: "hand-overs",
    Term.OUTPUT: "returning the output",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    parser.add_argument(
        "--with-compiler",
        action="store_true",
        help="also compile, all int8, for the compiler's own estimate (X3, Ultra, X5; minutes; `bpudeploy toolchain`)",
    )
    parser.add_argument("--top", type=int, default=8, metavar="N", help="how many of the slowest nodes to show (8)")


def run(args: Namespace, out: Output) -> ExitCode:
    """Predict a network's latency on one or several targets, in both of its forms."""
    require_image_size(args.image_size)
    if args.top < 0:
        raise UsageError(f"--top {args.top} is below 0", hint="0 shows no node")
    targets = targets_named(args.target)
    for target in targets:
        _require_model(target)
    if not targets and not is_file(args.model):
        raise UsageError("--target is missing", hint=f"add --target NAME: {', '.join(_predictable())}")
    found: list[Prediction] = []
    originals = load_models(args.model, original=True, image_size=args.image_size)
    rewritten = load_models(args.model, original=False, image_size=args.image_size)
    for (before, own), (after, _), int16 in zip(originals, rewritten, _int16(args.model), strict=True):
        for target in targets or ((own,) if own else ()):
            one = predicted_on(target, before, after, int16)
            found.append(_compiled(one, after, target, out) if args.with_compiler else one)
    document = [one.model_dump(mode="json") for one in found]
    compared = [*_compared(found), ""] if len(found) > 1 else []
    out.show(document, [*compared, *(line for one in found for line in (*_text(one, args.top), ""))])
    return ExitCode.OK


def _compiled(one: Prediction, model: InspectedModel, target: Target, out: Output) -> Prediction:
    with out.live() as live:
        profile = model.compiled_for(target, live.draw)
    figures = {"compiler_estimate": profile.total_us / 1e3, "compiler_cpu_nodes": len(profile.on_cpu)}
    return one.model_copy(update=figures)


def _compared(found: Sequence[Prediction]) -> list[str]:
    """Return one row for each network and board."""
    columns = (
        ">predicted ms",
        "interval (90 %)",
        ">original ms",
        ">speed-up",
        ">compiler ms",
        "bound",
        "network on board",
    )
    rows = [
        (
            _ms(p.restructured[0].predicted_ms),
            _interval(p.restructured[0]),
            _ms(p.original.predicted_ms),
            f"{p.predicted_speedup:.2f}x",
            "" if p.compiler_estimate is None else _ms(p.compiler_estimate),
            p.restructured[0].bound,
            f"{p.model} on {p.target}",
        )
        for p in found
    ]
    return table(columns, rows)


def _int16(model: str) -> list[tuple[str, ...]]:
    """Return ``quantize.int16`` of each recipe, or the default if there is no recipe."""
    if not is_file(model):
        return [QuantizeSpec().int16]
    return [resolved.recipe.quantize.int16 for resolved in load_recipe(Path(model), (), backend_names, to_look=True)]


def predicted_on(target: Target, before: InspectedModel, after: InspectedModel, int16: Sequence[str]) -> Prediction:
    """Predict the latency of a network, in both of its forms, on a target that has a model.

    Args:
        int16: a recipe's ``quantize.int16``.
    """
    from bpudeploy.quantize.taps import find_quantization_points

    model = _require_model(target)

    def count(of: InspectedModel, graph: onnx.ModelProto) -> Workload:
        return count_workload(graph, target.march, model.array, of.constants, of.form, trained=of.trained)

    graph = after.graph_for(target)
    work = count(after, graph)
    places = find_quantization_points(graph, target.precision, [n.name for n in work.nodes if not n.on_bpu], int16)
    promoted = {product for place in places if place.precision is Precision.INT16 for product in place.products}
    return predict(after.name, after.origin, target, model, work, count(before, before.model), promoted)


def _require_model(target: Target) -> MarchModel:
    """Return a target's model; refuse a target whose latency cannot be predicted."""
    model = model_of(target)
    if model is not None:
        return model
    where = f"add --target NAME: {', '.join(_predictable())}"
    if target.march is March.CPU:
        raise UsageError(
            f"target {target.name} has no BPU: there is nothing to predict",
            hint=f"`bpudeploy run` measures there; {where}",
        )
    raise UsageError(
        f"there is no latency model of {target.march}, the march of {target.name}",
        hint=f"set latency_model in the target's file, or {where}",
    )


def _predictable() -> list[str]:
    targets = {name: load_target(name, Path())[0] for name in sorted(list_targets(Path()))}
    return [name for name, target in targets.items() if model_of(target) is not None]


def _text(one: Prediction, top: int) -> Iterator[str]:
    chosen = one.restructured[0]
    yield f"{one.model} on {one.target} ({chosen.board}, {chosen.march}): PREDICTED, nothing was measured"
    yield f"  {one.origin}\n"
    columns = ("predicted latency, one image", ">ms", "interval (90 %)", "bound", ">segments", ">CPU nodes")
    yield from table(columns, [_row(form) for form in (*one.restructured, one.original)])
    yield ""
    if one.compiler_estimate is not None:
        cpu = f", and {one.compiler_cpu_nodes} nodes on the CPU, not counted" if one.compiler_cpu_nodes else ""
        text = f"{_ms(one.compiler_estimate)} ms by the compiler's estimate: restructured, laid out, all int8, O3{cpu}"
        yield _wrapped("compiler", text)
    yield _wrapped("speed-up", f"predicted {one.predicted_speedup:.2f}x, original to restructured; {_PAPER}")
    if len(one.restructured) == 1:
        yield _wrapped("int16", f"{chosen.march} has none")
    yield _wrapped("time", _shares(chosen))
    yield ""
    if top:
        yield from table(
            (">predicted ms", ">share", "on", "op", "node"), [_node(node, chosen) for node in chosen.nodes[:top]]
        )
        yield ""
    yield _wrapped("note", f"{chosen.basis}.")
    yield _wrapped("note", "the model was fitted to no vision transformer: its figures for attention are extrapolated.")


def _row(e: Estimate) -> tuple[object, ...]:
    return f"{e.form}, {e.width}", _ms(e.predicted_ms), _interval(e), e.bound, e.segments, e.cpu_nodes


def _interval(e: Estimate) -> str:
    return f"{_ms(e.predicted_low_ms)} to {_ms(e.predicted_high_ms)}"


def _node(node: NodeTime, e: Estimate) -> tuple[object, ...]:
    share = node.predicted_ms / e.predicted_ms
    return f"{node.predicted_ms:.3f}", f"{share:.1%}", "BPU" if node.on_bpu else "CPU", node.op, node.name


def _shares(e: Estimate) -> str:
    """Return every term that takes a hundredth of the time or more."""
    terms = sorted(((ms, t) for t, ms in e.by_term_ms.items()), key=lambda pair: -pair[0])
    shown = [f"{_TERMS[t]} {_ms(ms)} ms ({ms / e.predicted_ms:.0%})" for ms, t in terms if ms >= 0.01 * e.predicted_ms]
    return f"{', '.join(shown)}; predicted, {e.width}"


def _ms(value: float) -> str:
    """Return three significant digits: no prediction is more precise."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _wrapped(name: str, text: str) -> str:
    return wrap(f"  {name:<10} ", text)
