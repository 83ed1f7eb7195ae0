"""approximate/...: one step per approximation that the recipe declares, each with its own graph and scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bpudeploy.backends.samples import Normalisation, Samples
from bpudeploy.events import Note, Progress
from bpudeploy.host import batches, open_with_outputs
from bpudeploy.spec.approximate import ApproximateSpec, GeluForm
from bpudeploy.stage import Artifact, Kind, Stage, StepContext
from bpudeploy.stages.options import FieldOptions
from bpudeploy.stages.quantize import score

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from bpudeploy.approximate.linear import Activations
    from bpudeploy.restructure.graph import Graph


@dataclass(frozen=True)
class ApproximationOptions(FieldOptions):
    """Base of the options below. ``absent``: blocks that earlier approximations removed."""

    name: ClassVar[str]
    calibrated: ClassVar[bool] = False
    """Whether the approximation uses the calibration samples."""

    def apply(self, graph: Graph, activations: Activations) -> str:
        """Change ``graph`` in place and return a description of the change."""
        raise NotImplementedError


@dataclass(frozen=True)
class DropOptions(ApproximationOptions):
    """Blocks to remove."""

    name = "drop-blocks"
    blocks: tuple[int, ...]

    def apply(self, graph: Graph, activations: Activations) -> str:
        from bpudeploy.approximate.drop import drop_blocks

        return drop_blocks(graph, self.blocks)


@dataclass(frozen=True)
class LinearOptions(ApproximationOptions):
    """Chains of blocks, [first, last], to replace by a fitted linear map."""

    name = "linear-blocks"
    calibrated = True
    ranges: tuple[tuple[int, int], ...]
    absent: tuple[int, ...]

    def apply(self, graph: Graph, activations: Activations) -> str:
        from bpudeploy.approximate.linear import linear_blocks

        return linear_blocks(graph, self.ranges, activations, self.absent)


@dataclass(frozen=True)
class ParallelOptions(ApproximationOptions):
    """Pairs of blocks, [i, i + 1], to run in parallel."""

    name = "parallel-blocks"
    pairs: tuple[tuple[int, int], ...]
    absent: tuple[int, ...]

    def apply(self, graph: Graph, activations: Activations) -> str:
        from bpudeploy.approximate.parallel import parallel_blocks

        return parallel_blocks(graph, self.pairs, self.absent)


@dataclass(frozen=True)
class TokensOptions(ApproximationOptions):
    """Pooling of patch tokens after one block."""

    name = "reduce-tokens"
    after_block: int
    factor: int
    absent: tuple[int, ...]

    def apply(self, graph: Graph, activations: Activations) -> str:
        from bpudeploy.approximate.tokens import reduce_tokens

        return reduce_tokens(graph, self.after_block, self.factor, self.absent)


@dataclass(frozen=True)
class HeadsOptions(ApproximationOptions):
    """Attention heads to remove: a share of all, or a list of [block, head] if it is None."""

    name = "prune-heads"
    calibrated = True
    share: float | None
    heads: tuple[tuple[int, int], ...]
    absent: tuple[int, ...]

    def apply(self, graph: Graph, activations: Activations) -> str:
        from bpudeploy.approximate.heads import prune_heads

        return prune_heads(graph, self.share, self.heads, activations, self.absent)


@dataclass(frozen=True)
class GeluOptions(ApproximationOptions):
    """Approximation of GELU."""

    name = "gelu"
    form: GeluForm

    def apply(self, graph: Graph, activations: Activations) -> str:
        from bpudeploy.approximate.gelu import approximate_gelu

        return approximate_gelu(graph, self.form)


@dataclass(frozen=True)
class Approximation:
    """One declared approximation; ``label`` is its line in the report."""

    label: str
    options: ApproximationOptions

    @property
    def step(self) -> str:
        """The step's name in the plan."""
        return f"approximate/{self.options.name}"

    @property
    def calibrated(self) -> bool:
        """Whether the step takes the calibration samples, between the graph and the preprocessing."""
        return self.options.calibrated

    @property
    def stage(self) -> Stage[Any]:
        """The stage that runs it."""
        calibration = (Kind.SAMPLES,) if self.calibrated else ()
        return Stage(
            self.options.name,
            version=1,
            takes=(Kind.GRAPH, *calibration, Kind.PREPROCESS, Kind.SAMPLES),
            gives={"graph": Kind.GRAPH, "scores": Kind.SCORES},
            run=approximate,
            tools=("onnx", "onnxruntime", "numpy"),
        )


def approximations(spec: ApproximateSpec) -> tuple[Approximation, ...]:
    """Return the declared approximations in the order of application, coarse to fine.

    Blocks are removed or merged first, so that a later fit or importance measure sees the final structure. Blocks keep
    their numbers in the original network.
    """
    found: list[Approximation] = []
    absent: tuple[int, ...] = ()

    def add(label: str, options: ApproximationOptions) -> None:
        found.append(Approximation(f"+ {label}", options))

    if spec.drop_blocks:
        absent = tuple(sorted(spec.drop_blocks))
        add(f"drop blocks {_listed(spec.drop_blocks)}", DropOptions(absent))
    if spec.linear_blocks:
        label = f"linear blocks {_listed(f'{a} to {b}' if a < b else a for a, b in spec.linear_blocks)}"
        add(label, LinearOptions(tuple(sorted(spec.linear_blocks)), absent))
        absent = tuple(sorted({*absent, *spec.linear}))
    if spec.parallel_blocks:
        label = f"parallel blocks {_listed(f'{a} and {b}' for a, b in spec.parallel_blocks)}"
        add(label, ParallelOptions(tuple(sorted(spec.parallel_blocks)), absent))
        absent = tuple(sorted({*absent, *(second for _, second in spec.parallel_blocks)}))
    if spec.reduce_tokens is not None:
        after, factor = spec.reduce_tokens.after_block, spec.reduce_tokens.factor
        merged = next((first for first, second in spec.parallel_blocks if second == after), after)
        add(f"tokens pooled {factor}x{factor} after block {after}", TokensOptions(merged, factor, absent))
    if spec.prune_heads is not None:
        share, heads = spec.prune_heads.share, tuple(sorted(spec.prune_heads.heads))
        listed = f"{len(heads)} head{'s' * (len(heads) > 1)} pruned"
        add(f"{100 * share:g} % of heads pruned" if share is not None else listed, HeadsOptions(share, heads, absent))
    if spec.gelu is not None:
        add(f"gelu {spec.gelu.value}", GeluOptions(spec.gelu))
    return tuple(found)


def _listed(items: Any) -> str:
    return ", ".join(map(str, items))


def approximate(work: StepContext, options: ApproximationOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Change the graph, check that the board can run its form, update its record, and score the evaluation set."""
    import onnx

    from bpudeploy.approximate.cost import multiply_adds
    from bpudeploy.approximate.graph_edit import editable_graph, kept_float
    from bpudeploy.restructure.bpu_form import check_form
    from bpudeploy.restructure.record import GraphRecord, count_nodes
    from bpudeploy.restructure.write import to_onnx

    source, *calibration, preprocess, evaluation = inputs
    step = f"approximate/{options.name}"
    model, normalise = onnx.load(source.path), Normalisation.read(preprocess.path)
    record = GraphRecord.read(model)
    graph = editable_graph(model, record.keep_float)
    before, cost = len(graph.nodes), multiply_adds(graph)

    def activations(names: Sequence[str]) -> Iterator[Mapping[str, NDArray[np.float32]]]:
        images = Samples.read(calibration[0].path)
        for done, values in _tensors(model, images, normalise, names):
            work.emit(Progress(step, done, len(images), "images"))
            yield dict(zip(names, values, strict=True))

    change = options.apply(graph, activations)
    after, smaller = len(graph.nodes), multiply_adds(graph)
    kept = kept_float(graph)
    made = to_onnx(graph)
    check_form(made)
    onnx.checker.check_model(made, full_check=True)
    record.model_copy(update={"nodes": count_nodes(made), "keep_float": kept}).write(made)
    onnx.save(made, work.dir / "graph.onnx")
    cost_change = f"{cost / 1e9:.3g} -> {smaller / 1e9:.3g} G multiply-adds"
    work.emit(Note(step, f"{change}; {before} -> {after} nodes, {cost_change}"))
    images = Samples.read(evaluation.path)
    scores = score(
        made.SerializeToString(), images, normalise, lambda done: work.emit(Progress(step, done, len(images), "images"))
    )
    work.emit(Note(step, f"top-1 {100 * scores.top1:.2f} % of {len(images)} images"))
    return work.dir / "graph.onnx", scores.write(work.dir / "scores.safetensors")


def _tensors(
    model: onnx.ModelProto, images: Samples, normalise: Normalisation, names: Sequence[str]
) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
    """Run a copy of the model in onnxruntime; yield the number of images done and the tensors ``names`` of each batch.

    Axis 0 of each tensor is the images, or a multiple of them.
    """
    session = open_with_outputs(model, names)
    (image_input,) = session.get_inputs()
    for chosen, kept in batches(len(images), image_input.shape[0]):
        tensors = session.run(list(names), {image_input.name: normalise.apply(images.pixels[chosen])})
        yield chosen[0] + kept, [array[: len(array) * kept // len(chosen)] for array in tensors]
