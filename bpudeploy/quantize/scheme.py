"""From a float graph and calibration images to integers: observe, migrate, round, write. The levers in their order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpudeploy.errors import StageError
from bpudeploy.host import open_session, side_by_side
from bpudeploy.quantize.calibrate import ConvInputs, Seen, Wanted, conv_inputs, observe, windows
from bpudeploy.quantize.centre import centre_values
from bpudeploy.quantize.migrate import Migration, migrate
from bpudeploy.quantize.observer import Histogram, threshold
from bpudeploy.quantize.patches import Window
from bpudeploy.quantize.qdq import to_qdq
from bpudeploy.quantize.record import QuantizeRecord, Tap
from bpudeploy.quantize.split import split_softmax
from bpudeploy.quantize.taps import Place, Reading, find_places, find_products
from bpudeploy.quantize.weights import Inputs, Kernel, Rounded, round_weights
from bpudeploy.spec.precision import Precision, PrecisionRules
from bpudeploy.spec.quantize import QuantizeSpec

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

_TOLERANCE = 1e-4
"""Centring and migration change nothing but float32's own rounding: worst |difference| over the outputs' range."""
_FOR_MEANS = 4
"""Images that the values' mean is taken from: it need not be exact, any number serves."""


@dataclass(frozen=True)
class Quantized:
    """``prepared``: the float graph (opset 11) with migrated scales, rounded weights and corrected biases, which is
    what a vendor's compiler is given. ``qdq``: the same with every rounding in it (opset 13), and its record.
    """

    prepared: onnx.ModelProto
    qdq: onnx.ModelProto
    record: QuantizeRecord


@dataclass(frozen=True)
class _Graph:
    """Where a graph is rounded, and what each of its Convs reads."""

    model: onnx.ModelProto
    products: tuple[str, ...]
    places: tuple[Place, ...]
    inputs: ConvInputs


def quantize_graph(
    model: onnx.ModelProto,
    keep_float: Collection[str],
    on_cpu: Collection[str],
    rules: PrecisionRules,
    spec: QuantizeSpec,
    image: Callable[[int], NDArray[np.float32]],
    runs: int,
    progress: Callable[[int], None],
) -> Quantized:
    """Quantize ``model`` by the rules of a march, in one pass over the calibration images.

    Args:
        keep_float: nodes whose values have too wide a range for int8: held as ``rules.elsewhere``.
        on_cpu: nodes that the march's compiler leaves to the CPU, in float.
        image: the input of run 0 to ``runs`` - 1, float32 (N, 3, H, W), normalised.

    Raises:
        StageError: a tensor is not finite, or the graph with migrated scales is not the same function.
    """
    wide = rules.elsewhere is Precision.INT16
    in_float = frozenset(on_cpu) | (frozenset(keep_float) if rules.elsewhere is Precision.FLOAT32 else frozenset())
    int16 = (*spec.int16, *(keep_float if wide else ()))

    def limit(histogram: Histogram) -> float:
        return threshold(histogram, spec.observer, spec.percentile)

    start, centred = model, 0
    if spec.centre:
        model, centred = centre_values(model, (image(i) for i in range(min(runs, _FOR_MEANS))))
    halves = 0
    if spec.split and wide and Precision.INT16 not in rules.matmul:
        model, halves = split_softmax(model)
    graph = _look(model, rules, in_float, int16)
    seen = observe(model, _wanted(graph), (image(i) for i in range(runs)), runs, progress)
    migrations: tuple[Migration, ...] = ()
    if spec.migrate:
        moved, migrations = migrate(
            model, graph.places, seen, graph.inputs, limit, factors_stay=not rules.folds_factors
        )
        graph = _look(moved, rules, in_float, int16)
    _prove(start, graph.model, image(0))
    taps = {p.name: _tap(p, seen[p.source], limit) for p in graph.places}
    weights = _weights(graph, taps, seen, spec)
    prepared = _prepared(graph.model, weights)
    qdq = to_qdq(graph.model, graph.places, taps, weights)
    record = QuantizeRecord(
        observer=spec.observer.value,
        images=runs,
        taps=taps,
        products=graph.products,
        levers=_levers(spec, centred, halves, migrations),
        factors={m.maker: m.factors for m in migrations if m.maker},
    )
    return Quantized(prepared, qdq, record)


def _prove(model: onnx.ModelProto, moved: onnx.ModelProto, image: NDArray[np.float32]) -> None:
    """Hold the graph with migrated scales against the one without, on one image."""
    import numpy as np

    (name,) = (value.name for value in model.graph.input)
    for before, after in zip(
        *(open_session(m.SerializeToString(), lean=True).run(None, {name: image}) for m in (model, moved)), strict=True
    ):
        worst = float(np.abs(after - before).max() / max(float(np.ptp(before)), 1e-30))
        if not worst <= _TOLERANCE:
            raise StageError(
                f"migrated scales and centred values change the network by {worst:.1e} of its outputs' range",
                hint="set quantize.migrate and quantize.centre to false, and report this",
            )


def _look(model: onnx.ModelProto, rules: PrecisionRules, in_float: Collection[str], int16: Sequence[str]) -> _Graph:
    products = find_products(model, in_float)
    inputs = conv_inputs(Reading(model), products)
    return _Graph(model, products, find_places(model, rules, in_float, int16), inputs)


def _wanted(graph: _Graph) -> Wanted:
    int8 = [p.source for p in graph.places if p.precision is Precision.INT8]
    return Wanted(int8, [p.source for p in graph.places], windows(graph.inputs))


def _tap(place: Place, seen: Seen, limit: Callable[[Histogram], float]) -> Tap:
    peak = seen.maximum or 1.0
    held = limit(seen.histogram) if place.precision is Precision.INT8 else peak
    return Tap(precision=place.precision, threshold=held, peak=peak, products=place.products)


def _weights(
    graph: _Graph, taps: Mapping[str, Tap], seen: Mapping[str, Seen], spec: QuantizeSpec
) -> dict[str, Rounded]:
    reading = Reading(graph.model)
    of = {name: taps[p.name] for p in graph.places for name in p.products}
    alike: dict[tuple[str, Window, int], list[Kernel]] = {}
    for name, (tensor, window) in graph.inputs.items():
        kernel = Kernel.of(reading.nodes[name], reading.constants)
        alike.setdefault((tensor, window, len(kernel.rows)), []).append(kernel)

    def rounded(key: tuple[str, Window, int]) -> list[tuple[str, Rounded]]:
        tensor, window, groups = key
        tap, inputs = of[alike[key][0].node], None
        if seen[tensor].columns:
            inputs = Inputs.of(seen[tensor].drawn(window), groups, tap.scale, tap.threshold)
        return [(kernel.node, round_weights(kernel, inputs, spec.weights)) for kernel in alike[key]]

    return dict(pair for found in side_by_side(rounded, alike) for pair in found)


def _prepared(model: onnx.ModelProto, weights: Mapping[str, Rounded]) -> onnx.ModelProto:
    """Return ``model`` with the float values that its integers stand for."""
    import onnx
    from onnx import numpy_helper

    out = onnx.ModelProto()
    out.CopyFrom(model)
    made = []
    for node in out.graph.node:
        if node.name not in weights:
            continue
        rounded = weights[node.name]
        node.input[1] = f"{node.name}.weight"
        made.append(numpy_helper.from_array(rounded.weight.astype("float32"), node.input[1]))
        if rounded.bias is not None:
            del node.input[2:]
            node.input.append(f"{node.name}.bias")
            made.append(numpy_helper.from_array(rounded.bias.astype("float32"), node.input[2]))
    used = {name for node in out.graph.node for name in node.input}
    names = {tensor.name for tensor in made}
    kept = [t for t in out.graph.initializer if t.name in used and t.name not in names]
    del out.graph.initializer[:]
    out.graph.initializer.extend([*kept, *made])
    return out


def _levers(spec: QuantizeSpec, centred: int, halves: int, migrations: Sequence[Migration]) -> tuple[str, ...]:
    found = [f"{spec.observer.value} thresholds"]
    if centred:
        found.append(f"values of {centred} attentions centred")
    if halves:
        found.append(f"{halves} softmaxes in two ranges, for a MatMul that takes int8 only")
    if spec.migrate:
        free = sum(not m.added for m in migrations)
        found.append(
            f"scales migrated at {len(migrations)} tensors ({free} for nothing, {len(migrations) - free} by a Mul)"
        )
    channels = "an output channel" if spec.weights.per_channel else "a tensor"
    found.append(f"{spec.weights.scale.value} weight scales, one {channels}")
    found.append(f"weights rounded by {spec.weights.rounding.value}")
    if spec.weights.correct_bias:
        found.append("biases corrected")
    return tuple(found)
