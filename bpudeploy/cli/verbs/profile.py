"""profile: where a binary's time goes, by the compiler's estimate of each layer; two binaries side by side."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpudeploy.backends.base import SimulatingBackend
from bpudeploy.backends.registry import backend_names, load_backend
from bpudeploy.cli.arguments import add, store
from bpudeploy.cli.output import Output, table
from bpudeploy.conformance.profile import Profile
from bpudeploy.digest import short
from bpudeploy.errors import ExitCode, SpecError, UsageError
from bpudeploy.planning import pipeline
from bpudeploy.planning.products import BINARY, Products
from bpudeploy.predict.against_compiler import NodeComparison, compare_nodes
from bpudeploy.predict.march import model_of
from bpudeploy.releases import find_release
from bpudeploy.run.runner import run as run_plan
from bpudeploy.spec.load import load_recipe, load_target
from bpudeploy.spec.precision import Precision
from bpudeploy.spec.target import Target

_FEW = 10
EXAMPLE = """\
  bpudeploy profile recipes/inspection-cnn.yaml --set target=rdk-x5
  bpudeploy profile quickstart@rdk-x5 --page profile.html
  bpudeploy profile 3fa9c1d2 recipes/quickstart.yaml --set target=rdk-x5     a release, and what the recipe makes now

A recipe is compiled first, if that is not cached. Every time is the compiler's estimate for the BPU, not a measurement;
layers overlap, so that their sum may exceed the latency. Nodes are compared with the times that `estimate` predicts."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", metavar="RELEASE|RECIPE", help="a release by name or digest, or a recipe (.yaml)")
    parser.add_argument("other", metavar="RELEASE|RECIPE", nargs="?", help="compare with another one")
    parser.add_argument("--layers", type=int, default=25, metavar="N", help="layers to show, the longest (default: 25)")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write all layers and pictures as an HTML page")
    add(parser, "--set", "--store", "--json")


def run(args: Namespace, out: Output) -> ExitCode:
    if args.layers < 1:
        raise UsageError(f"--layers {args.layers} is below 1", hint="25 shows most of the time")
    found = [_find(named, args, out) for named in (args.subject, args.other) if named is not None]
    profiles = [(one.name, one.profile) for one in found]
    if args.page is not None:
        from bpudeploy.results.profile_page import write_profiles

        write_profiles(profiles, args.page)
    lines = _one(found[0], args.layers) if len(found) == 1 else _two(profiles, args.layers)
    written = [f"  page: {args.page}"] if args.page is not None else []
    out.show({one.name: one.document() for one in found}, [*lines, *written])
    return ExitCode.OK


@dataclass(frozen=True)
class _Compiled:
    """A binary: its profile, and its nodes compared with their prediction; none without a model of its march."""

    name: str
    profile: Profile
    compared: tuple[NodeComparison, ...]

    def document(self) -> dict[str, Any]:
        compared = [node.model_dump(mode="json") for node in self.compared]
        return {**self.profile.model_dump(mode="json"), "against_prediction": compared}


def _find(named: str, args: Namespace, out: Output) -> _Compiled:
    """Return the binary that a command names.

    Raises:
        UsageError: its compiler gives no estimate by layer.
    """
    if named.endswith((".yaml", ".yml")):
        jobs = load_recipe(Path(named), args.sets, backend_names)
        if len(jobs) != 1:
            raise UsageError(f"{named} has {len(jobs)} jobs", hint="choose one with --set, such as --set target=rdk-x5")
        with out.live() as live:
            steps = run_plan(pipeline.plan(jobs[0]).until(BINARY), store(args), live.draw).artifacts
        name, products = f"{jobs[0].recipe.name}@{jobs[0].target.name}", Products(steps)
        target: Target | None = jobs[0].target
        backend = jobs[0].target.backend
    else:
        release = find_release(named)
        name = f"{release.manifest.name}@{release.manifest.target} {short(release.digest)}"
        products = Products.of_release(release.manifest.steps, store(args))
        backend, target = release.manifest.backend, None
        with suppress(SpecError):  # a target's file that is elsewhere
            target = load_target(release.manifest.target, Path())[0]
    found = load_backend(backend)
    if not isinstance(found, SimulatingBackend):
        raise UsageError(
            f"{name}: {backend} gives no estimate by layer", hint="hb_mapper does: rdk-x3, rdk-x5, rdk-ultra"
        )
    profile = found.profile(products.compiler_findings.path)
    return _Compiled(name, profile, () if target is None else _compared(profile, products, target))


def _compared(profile: Profile, products: Products, target: Target) -> tuple[NodeComparison, ...]:
    """Compare a binary's nodes with their prediction; none without a model of the march, or without its graphs."""
    import onnx

    from bpudeploy.quantize.record import QuantizeRecord

    model, graphs = model_of(target), (products.quantized.path, products.prepared.path)
    if model is None or not all(path.is_file() for path in graphs):
        return ()
    quantized, prepared = (onnx.load(path) for path in graphs)
    taps = QuantizeRecord.read(quantized).taps.values()
    int16 = {product for tap in taps if tap.precision is Precision.INT16 for product in tap.products}
    return compare_nodes(profile, prepared, int16, model, target.precision)


def _one(compiled: _Compiled, count: int) -> Iterator[str]:
    profile = compiled.profile
    yield _headline(compiled.name, profile)
    yield from table(
        [">ms", ">share", "kind of layer"],
        [[f"{us / 1e3:.3f}", f"{100 * us / profile.total_us:.0f} %", kind] for kind, us in profile.kinds().items()],
    )
    longest = sorted(profile.layers, key=lambda layer: layer.time_us, reverse=True)[:count]
    yield f"  the {len(longest)} longest of {len(profile.layers)} layers:"
    yield from table(
        [">us", "bound", ">padding", "shape", "aligned", "layer"],
        [
            [
                f"{layer.time_us:.0f}",
                layer.bound,
                f"{100 * layer.padding:.0f} %",
                "x".join(map(str, layer.shape)),
                "x".join(map(str, layer.aligned)),
                f"{layer.name} ({layer.op or 'added'})",
            ]
            for layer in longest
        ],
    )
    yield "  bound: what takes longer; padding: the share of the aligned shape (N, H, W, C) that is not the tensor's"
    if profile.on_cpu:
        yield f"  on the CPU, and not in the time: {', '.join(profile.on_cpu)}"
    if compiled.compared:
        yield from _against_prediction(compiled.compared, min(count, _FEW))


def _against_prediction(compared: Sequence[NodeComparison], count: int) -> Iterator[str]:
    """Yield the nodes that differ most from what `estimate` predicts."""
    for node in (node for node in compared if node.elsewhere):
        where = ("BPU", "CPU") if node.predicted_on_cpu else ("CPU", "BPU")
        yield f"  {node.name} ({node.op}) is on the {where[0]}, predicted on the {where[1]}"
    most = compared[:count]
    yield f"  the {len(most)} nodes that differ most from the prediction of `bpudeploy estimate`:"
    yield from table(
        [">compiler, us", ">predicted, us", "node"],
        [
            [
                "CPU" if node.compiler_us is None else f"{node.compiler_us:.0f}",
                f"{node.predicted_us:.0f}",
                f"{node.name} ({node.op})",
            ]
            for node in most
        ],
    )


def _headline(name: str, profile: Profile) -> str:
    parts = profile.subgraphs
    loaded, stored = (sum(getattr(p, field) for p in parts) / 1e6 for field in ("loaded_bytes", "stored_bytes"))
    intervals = [value for part in parts for value in part.utilization]
    busy = f"; computing units busy {100 * sum(intervals) / len(intervals):.0f} %" if intervals else ""
    return (
        f"{name}: {profile.total_us / 1e3:.3f} ms by the compiler's estimate, {len(parts)} part(s) on the BPU, "
        f"{len(profile.on_cpu)} node(s) on the CPU; DDR {loaded:.1f} MB loaded, {stored:.1f} MB stored{busy}"
    )


def _two(profiles: list[tuple[str, Profile]], count: int) -> Iterator[str]:
    for name, profile in profiles:
        yield _headline(name, profile)
    (_, before), (_, after) = profiles
    yield from _differences("kind of layer", before.kinds(), after.kinds())
    yield f"  the {count} layers that differ most:"
    times = [{layer.name: layer.time_us for layer in profile.layers} for profile in (before, after)]
    yield from _differences("layer", times[0], times[1], count)


def _differences(title: str, before: dict[str, float], after: dict[str, float], count: int | None = None) -> list[str]:
    change = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in {**before, **after}}
    largest = sorted(change, key=lambda name: (-abs(change[name]), name))[:count]
    return table(
        [">before, us", ">after, us", ">change", title],
        [
            [
                f"{before[name]:.0f}" if name in before else "-",
                f"{after[name]:.0f}" if name in after else "-",
                f"{change[name]:+.0f}",
                name,
            ]
            for name in largest
        ],
    )
