"""approximate/...: one step for each approximation that the recipe declares, each with its own graph and scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpudeploy.backends.samples import Normalisation, Samples, Scores
from bpudeploy.events import Note, Progress
from bpudeploy.host import batches, open_with_outputs
from bpudeploy.spec.approximate import ApproximateSpec, GeluForm
from bpudeploy.stage import Artifact, Kind, Options, Stage, Work

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from bpudeploy.approximate.linear import Activations
    from bpudeploy.restructure.graph import Graph

    Change = Callable[[Graph, Activations], str]


@dataclass(frozen=True)
class _Options:
    def canonical(self) -> Mapping[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class DropOptions(_Options):
    """Which blocks go."""

    blocks: tuple[int, ...]


@dataclass(frozen=True)
class LinearOptions(_Options):
    """Which [first, last] become linear; ``absent``: blocks that earlier steps took away."""

    ranges: tuple[tuple[int, int], ...]
    absent: tuple[int, ...]


@dataclass(frozen=True)
class ParallelOptions(_Options):
    """Which [i, i + 1] stand side by side."""

    pairs: tuple[tuple[int, int], ...]
    absent: tuple[int, ...]


@dataclass(frozen=True)
class TokensOptions(_Options):
    """Where and how far tokens are pooled."""

    after_block: int
    factor: int
    absent: tuple[int, ...]


@dataclass(frozen=True)
class HeadsOptions(_Options):
    """A share of all heads, or [block, head] each when it is None."""

    share: float | None
    heads: tuple[tuple[int, int], ...]
    absent: tuple[int, ...]


@dataclass(frozen=True)
class GeluOptions(_Options):
    """Which form stands for GELU."""

    form: GeluForm


@dataclass(frozen=True)
class Approximation:
    """One declared approximation: its step, its line in the report, and what runs."""

    step: str
    label: str
    stage: Stage[Any]
    options: Options

    @property
    def calibrated(self) -> bool:
        """Whether it takes the calibration samples."""
        return self.stage.takes == _CALIBRATED


def approximations(spec: ApproximateSpec) -> tuple[Approximation, ...]:
    """Return what the recipe declares in the one order of application: coarse to fine.

    Whole blocks go first, then what stays gets smaller, then cheaper; so a fit or a measure of importance
    sees the network that it is for. Blocks keep the numbers that they have in the original.
    """
    found: list[Approximation] = []

    def add(name: str, label: str, stage: Stage[Any], options: Options) -> None:
        found.append(Approximation(f"approximate/{name}", f"+ {label}", stage, options))

    absent: tuple[int, ...] = ()
    if spec.drop_blocks:
        add(
            "drop-blocks",
            f"drop blocks {_listed(spec.drop_blocks)}",
            DROP,
            DropOptions(tuple(sorted(spec.drop_blocks))),
        )
        absent += tuple(sorted(spec.drop_blocks))
    if spec.linear_blocks:
        label = f"linear blocks {_listed(f'{a} to {b}' if a < b else a for a, b in spec.linear_blocks)}"
        add("linear-blocks", label, LINEAR, LinearOptions(tuple(sorted(spec.linear_blocks)), absent))
        absent = tuple(sorted({*absent, *spec.linear}))
    if spec.parallel_blocks:
        label = f"parallel blocks {_listed(f'{a} and {b}' for a, b in spec.parallel_blocks)}"
        add("parallel-blocks", label, PARALLEL, ParallelOptions(tuple(sorted(spec.parallel_blocks)), absent))
        absent = tuple(sorted({*absent, *(second for _, second in spec.parallel_blocks)}))
    if spec.reduce_tokens is not None:
        where, factor = _present(spec, spec.reduce_tokens.after_block), spec.reduce_tokens.factor
        label = f"tokens pooled {factor}x{factor} after block {spec.reduce_tokens.after_block}"
        add("reduce-tokens", label, TOKENS, TokensOptions(where, factor, absent))
    if spec.prune_heads is not None:
        share, heads = spec.prune_heads.share, tuple(sorted(spec.prune_heads.heads))
        label = (
            f"{100 * share:g} % of heads pruned"
            if share is not None
            else f"{len(heads)} head{'s' * (len(heads) > 1)} pruned"
        )
        add("prune-heads", label, HEADS, HeadsOptions(share, heads, absent))
    if spec.gelu is not None:
        add("gelu", f"gelu {spec.gelu.value}", GELU, GeluOptions(spec.gelu))
    return tuple(found)


def _listed(items: Any) -> str:
    return ", ".join(map(str, items))


def _present(spec: ApproximateSpec, block: int) -> int:
    """Return the number under which a block is found; the second of a parallel pair is one with the first."""
    return next((first for first, second in spec.parallel_blocks if second == block), block)


def drop(work: Work, options: DropOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Remove blocks."""
    from bpudeploy.approximate.drop import drop_blocks

    return _run(work, "approximate/drop-blocks", inputs, lambda g, _: drop_blocks(g, options.blocks))


def linear(work: Work, options: LinearOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Replace chains of blocks by fitted linear maps."""
    from bpudeploy.approximate.linear import linear_blocks

    return _run(
        work,
        "approximate/linear-blocks",
        inputs,
        lambda g, seen: linear_blocks(g, options.ranges, seen, options.absent),
    )


def parallel(work: Work, options: ParallelOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Put pairs of blocks side by side."""
    from bpudeploy.approximate.parallel import parallel_blocks

    return _run(
        work, "approximate/parallel-blocks", inputs, lambda g, _: parallel_blocks(g, options.pairs, options.absent)
    )


def tokens(work: Work, options: TokensOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Pool patch tokens."""
    from bpudeploy.approximate.tokens import reduce_tokens

    return _run(
        work,
        "approximate/reduce-tokens",
        inputs,
        lambda g, _: reduce_tokens(g, options.after_block, options.factor, options.absent),
    )


def heads(work: Work, options: HeadsOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Remove attention heads."""
    from bpudeploy.approximate.heads import prune_heads

    return _run(
        work,
        "approximate/prune-heads",
        inputs,
        lambda g, seen: prune_heads(g, options.share, options.heads, seen, options.absent),
    )


def gelu(work: Work, options: GeluOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Approximate GELU."""
    from bpudeploy.approximate.gelu import approximate_gelu

    return _run(work, "approximate/gelu", inputs, lambda g, _: approximate_gelu(g, options.form))


def _run(work: Work, step: str, inputs: tuple[Artifact, ...], change: Change) -> tuple[Path, ...]:
    """Change the graph, hold it to the board's form, carry its record over, and score the evaluation set."""
    import onnx

    from bpudeploy.approximate.cost import multiply_adds
    from bpudeploy.approximate.graph_edit import editable_graph, kept_float
    from bpudeploy.restructure.bpu_form import check_form
    from bpudeploy.restructure.record import GraphRecord, count_nodes
    from bpudeploy.restructure.write import to_onnx

    source, *calibration, preprocess, evaluation = inputs
    model, normalise = onnx.load(source.path), Normalisation.read(preprocess.path)
    record = GraphRecord.read(model)
    graph = editable_graph(model, record.keep_float)
    before, cost = len(graph.nodes), multiply_adds(graph)

    def activations(names: Sequence[str]) -> Iterator[Mapping[str, NDArray[np.float32]]]:
        images = Samples.read(calibration[0].path)
        for done, values in run_all(model, images, normalise, names):
            work.emit(Progress(step, done, len(images), "images"))
            yield dict(zip(names, values, strict=True))

    said = change(graph, activations)
    after, smaller = len(graph.nodes), multiply_adds(graph)
    kept = kept_float(graph)
    made = to_onnx(graph)
    check_form(made)
    onnx.checker.check_model(made, full_check=True)
    record.model_copy(update={"nodes": count_nodes(made), "keep_float": kept}).write(made)
    onnx.save(made, work.dir / "graph.onnx")
    work.emit(Note(step, f"{said}; {before} -> {after} nodes, {cost / 1e9:.3g} -> {smaller / 1e9:.3g} G multiply-adds"))
    scores = _score(work, step, made, Samples.read(evaluation.path), normalise)
    return work.dir / "graph.onnx", scores.write(work.dir / "scores.safetensors")


def _score(work: Work, step: str, model: onnx.ModelProto, images: Samples, normalise: Normalisation) -> Scores:
    import numpy as np

    rows = []
    for done, (logits,) in run_all(model, images, normalise, [model.graph.output[0].name]):
        rows.append(logits.reshape(len(logits), -1))
        work.emit(Progress(step, done, len(images), "images"))
    scores = Scores(np.concatenate(rows), images.labels)
    work.emit(Note(step, f"top-1 {100 * scores.top1:.2f} % of {len(images)} images"))
    return scores


def run_all(
    model: onnx.ModelProto, images: Samples, normalise: Normalisation, names: Sequence[str]
) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
    """Yield the tensors ``names`` batch by batch, in onnxruntime, with the number of images done so far.

    Axis 0 of each is the images, and what each image has several of. The model is not changed.
    """
    session = open_with_outputs(model, names)
    (fed,) = (value.name for value in session.get_inputs())
    for chosen, kept in batches(len(images), session.get_inputs()[0].shape[0]):
        made = session.run(list(names), {fed: normalise.apply(images.pixels[chosen])})
        yield chosen[0] + kept, [array[: len(array) * kept // len(chosen)] for array in made]


_PLAIN = (Kind.GRAPH, Kind.PREPROCESS, Kind.SAMPLES)
_CALIBRATED = (Kind.GRAPH, Kind.SAMPLES, Kind.PREPROCESS, Kind.SAMPLES)


def _stage(name: str, takes: tuple[Kind, ...], run: Callable[..., tuple[Path, ...]]) -> Stage[Any]:
    tools = ("onnx", "onnxruntime", "numpy")
    return Stage(name, version=1, takes=takes, gives={"graph": Kind.GRAPH, "scores": Kind.SCORES}, run=run, tools=tools)


DROP = _stage("drop-blocks", _PLAIN, drop)
LINEAR = _stage("linear-blocks", _CALIBRATED, linear)
PARALLEL = _stage("parallel-blocks", _PLAIN, parallel)
TOKENS = _stage("reduce-tokens", _PLAIN, tokens)
HEADS = _stage("prune-heads", _CALIBRATED, heads)
GELU = _stage("gelu", _PLAIN, gelu)
