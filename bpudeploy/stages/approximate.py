"""approximate/...: one step per approximation that the recipe declares, each with its own graph and scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpudeploy.backends.samples import Normalisation, Samples
from bpudeploy.events import Note, Progress, progress
from bpudeploy.host import open_with_outputs
from bpudeploy.spec.approximate import ApproximateSpec
from bpudeploy.stage import Artifact, Kind, Stage, StepContext
from bpudeploy.stages.feed import run_all
from bpudeploy.stages.quantize import score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bpudeploy.approximate.linear import Activations
    from bpudeploy.restructure.graph import Graph


_CALIBRATED = ("linear-blocks", "prune-heads")
"""The approximations that use the calibration samples."""


@dataclass(frozen=True)
class Approximation:
    """One declared approximation: its line in the report, its name, and the arguments of its function."""

    label: str
    name: str
    arguments: Mapping[str, Any]

    def canonical(self) -> Mapping[str, Any]:
        return self.arguments

    @property
    def step(self) -> str:
        """The step's name in the plan."""
        return f"approximate/{self.name}"

    @property
    def calibrated(self) -> bool:
        """Whether the step takes the calibration samples, between the graph and the preprocessing."""
        return self.name in _CALIBRATED

    @property
    def stage(self) -> Stage[Any]:
        """The stage that runs it."""
        calibration = (Kind.SAMPLES,) if self.calibrated else ()
        return Stage(
            self.name,
            version=1,
            takes=(Kind.GRAPH, *calibration, Kind.PREPROCESS, Kind.SAMPLES),
            gives={"graph": Kind.GRAPH, "scores": Kind.SCORES},
            run=approximate,
            tools=("onnx", "onnxruntime", "numpy"),
        )

    def apply(self, graph: Graph, activations: Activations) -> str:
        """Change ``graph`` in place and return a description of the change."""
        from bpudeploy.approximate.drop import drop_blocks
        from bpudeploy.approximate.gelu import approximate_gelu
        from bpudeploy.approximate.heads import prune_heads
        from bpudeploy.approximate.linear import linear_blocks
        from bpudeploy.approximate.parallel import parallel_blocks
        from bpudeploy.approximate.tokens import reduce_tokens

        functions: dict[str, Callable[..., str]] = {
            "drop-blocks": drop_blocks,
            "linear-blocks": linear_blocks,
            "parallel-blocks": parallel_blocks,
            "reduce-tokens": reduce_tokens,
            "prune-heads": prune_heads,
            "gelu": approximate_gelu,
        }
        calibration = {"activations": activations} if self.calibrated else {}
        return functions[self.name](graph, **self.arguments, **calibration)


def approximations(spec: ApproximateSpec) -> tuple[Approximation, ...]:
    """Return the declared approximations in the order of application, coarse to fine.

    Blocks are removed or merged first, so that a later fit or importance measure sees the final structure. Blocks keep
    their numbers in the original network, so ``absent`` lists those that earlier approximations removed.
    """
    found: list[Approximation] = []
    absent: tuple[int, ...] = ()

    def add(label: str, name: str, **arguments: Any) -> None:
        found.append(Approximation(f"+ {label}", name, arguments))

    if spec.drop_blocks:
        absent = tuple(sorted(spec.drop_blocks))
        add(f"drop blocks {_listed(spec.drop_blocks)}", "drop-blocks", blocks=absent)
    if spec.linear_blocks:
        label = f"linear blocks {_listed(f'{a} to {b}' if a < b else a for a, b in spec.linear_blocks)}"
        add(label, "linear-blocks", ranges=tuple(sorted(spec.linear_blocks)), absent=absent)
        absent = tuple(sorted({*absent, *spec.linear}))
    if spec.parallel_blocks:
        label = f"parallel blocks {_listed(f'{a} and {b}' for a, b in spec.parallel_blocks)}"
        add(label, "parallel-blocks", pairs=tuple(sorted(spec.parallel_blocks)), absent=absent)
        absent = tuple(sorted({*absent, *(second for _, second in spec.parallel_blocks)}))
    if spec.reduce_tokens is not None:
        after, factor = spec.reduce_tokens.after_block, spec.reduce_tokens.factor
        merged = next((first for first, second in spec.parallel_blocks if second == after), after)
        label = f"tokens pooled {factor}x{factor} after block {after}"
        add(label, "reduce-tokens", after_block=merged, factor=factor, absent=absent)
    if spec.prune_heads is not None:
        share, heads = spec.prune_heads.share, tuple(sorted(spec.prune_heads.heads))
        listed = f"{len(heads)} head{'s' * (len(heads) > 1)} pruned"
        label = f"{100 * share:g} % of heads pruned" if share is not None else listed
        add(label, "prune-heads", share=share, heads=heads, absent=absent)
    if spec.gelu is not None:
        add(f"gelu {spec.gelu.value}", "gelu", form=spec.gelu)
    return tuple(found)


def _listed(items: Any) -> str:
    return ", ".join(map(str, items))


def approximate(work: StepContext, options: Approximation, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Change the graph, check that the board can run its form, update its record, and score the evaluation set."""
    import onnx

    from bpudeploy.approximate.cost import multiply_adds
    from bpudeploy.restructure.bpu_form import check_form
    from bpudeploy.restructure.edit import editable_graph
    from bpudeploy.restructure.record import GraphRecord, count_nodes
    from bpudeploy.restructure.write import to_onnx

    source, *calibration, preprocess, evaluation = inputs
    step = options.step
    model, normalise = onnx.load(source.path), Normalisation.read(preprocess.path)
    record = GraphRecord.read(model)
    graph = editable_graph(model, record.keep_float)
    before, cost = len(graph.nodes), multiply_adds(graph)

    def activations(names: Sequence[str]) -> Iterator[Mapping[str, NDArray[np.float32]]]:
        images = Samples.read(calibration[0].path)
        for done, values in run_all(open_with_outputs(model, names), images, normalise, list(names)):
            work.emit(Progress(step, done, len(images), "images"))
            yield dict(zip(names, values, strict=True))

    change = options.apply(graph, activations)
    after, smaller = len(graph.nodes), multiply_adds(graph)
    kept, made = graph.keep_float, to_onnx(graph)
    check_form(made)
    onnx.checker.check_model(made, full_check=True)
    record.model_copy(update={"nodes": count_nodes(made), "keep_float": kept}).write(made)
    onnx.save(made, work.dir / "graph.onnx")
    cost_change = f"{cost / 1e9:.3g} -> {smaller / 1e9:.3g} G multiply-adds"
    work.emit(Note(step, f"{change}; {before} -> {after} nodes, {cost_change}"))
    images = Samples.read(evaluation.path)
    scores = score(made.SerializeToString(), images, normalise, progress(work.emit, step, len(images), "images"))
    work.emit(Note(step, f"top-1 {100 * scores.top1:.2f} % of {len(images)} images"))
    return work.dir / "graph.onnx", scores.write(work.dir / "scores.safetensors")
