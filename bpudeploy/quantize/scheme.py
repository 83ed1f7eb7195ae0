"""The quantization pipeline: from a float graph and calibration images to a QDQ graph, one technique after another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from bpudeploy.errors import StageError
from bpudeploy.host import open_session, parallel_map
from bpudeploy.onnxmodel import copy_model
from bpudeploy.quantize.arrays import F32
from bpudeploy.quantize.calibrate import (
    ConvInputs,
    StatisticsRequest,
    TensorStatistics,
    conv_inputs,
    observe,
    windows_by_tensor,
)
from bpudeploy.quantize.centre import centre_values
from bpudeploy.quantize.clipping import choose_clipping
from bpudeploy.quantize.migrate import Migration, Threshold, migrate
from bpudeploy.quantize.observer import Histogram, threshold
from bpudeploy.quantize.onnx_edit import set_constants
from bpudeploy.quantize.qdq import to_qdq
from bpudeploy.quantize.record import QuantizeRecord, Tap
from bpudeploy.quantize.split_softmax import split_softmax
from bpudeploy.quantize.taps import GraphIndex, QuantizationPoint, find_products, find_quantization_points
from bpudeploy.quantize.weights import ConvSamples, ConvWeights, QuantizedWeights, quantize_weights
from bpudeploy.quantize.window import Window
from bpudeploy.spec.precision import Precision, PrecisionRules
from bpudeploy.spec.quantize import Observer, QuantizeSpec

_TOLERANCE = 1e-4
"""Limit for the change by centring and migration, which should be only float32 rounding: worst |difference| relative
to the range of the outputs."""
_IMAGES_FOR_MEANS = 4
"""Images used for the mean of attention values. Any value is correct, so it need not be exact."""
_IMAGES_FOR_CLIPPING = 4
"""Images whose outputs choose between thresholds: what carries a network is in each of them."""


@dataclass(frozen=True)
class Quantized:
    """``prepared``: the float graph (opset 11) with migrated scales, rounded weights and corrected biases, the input of
    a vendor's compiler. ``qdq``: the same with all roundings (opset 13). ``record``: how it was quantized.
    """

    prepared: onnx.ModelProto
    qdq: onnx.ModelProto
    record: QuantizeRecord


@dataclass(frozen=True)
class _Plan:
    """Where a graph is quantized, and the inputs of its Convs."""

    model: onnx.ModelProto
    products: tuple[str, ...]
    points: tuple[QuantizationPoint, ...]
    inputs: ConvInputs

    def request(self) -> StatisticsRequest:
        int8 = [p.source for p in self.points if p.precision is Precision.INT8]
        return StatisticsRequest(int8, [p.source for p in self.points], windows_by_tensor(self.inputs))


def quantize_graph(
    model: onnx.ModelProto,
    keep_float: Collection[str],
    on_cpu: Collection[str],
    rules: PrecisionRules,
    spec: QuantizeSpec,
    image: Callable[[int], F32],
    runs: int,
    progress: Callable[[int], None],
) -> Quantized:
    """Quantize ``model`` by the rules of a march, in one pass over the calibration images.

    Args:
        keep_float: nodes whose values have too wide a range for int8; they use ``rules.elsewhere``.
        on_cpu: nodes that the compiler of the march leaves to the CPU, in float.
        image: returns the input of run 0 to ``runs`` - 1: float32 (N, 3, H, W), normalised.

    Raises:
        StageError: a tensor is not finite, or scale migration or centring changes the outputs of the float graph.
    """
    wide = rules.elsewhere is Precision.INT16
    in_float = frozenset(on_cpu) | (frozenset(keep_float) if rules.elsewhere is Precision.FLOAT32 else frozenset())
    int16 = (*spec.int16, *(keep_float if wide else ()))

    def limit(histogram: Histogram) -> float:
        return threshold(histogram, spec.observer, spec.percentile)

    original, centred = model, 0
    if spec.centre:
        model, centred = centre_values(model, (image(i) for i in range(min(runs, _IMAGES_FOR_MEANS))))
    splits = 0
    if spec.split and wide and Precision.INT16 not in rules.matmul:
        model, splits = split_softmax(model)
    plan = _plan(model, rules, in_float, int16)
    statistics = observe(model, plan.request(), (image(i) for i in range(runs)), runs, progress)
    migrations: tuple[Migration, ...] = ()
    if spec.migrate:
        migrated, migrations = migrate(
            model, plan.points, statistics, plan.inputs, limit, factors_stay=not rules.folds_factors
        )
        plan = _plan(migrated, rules, in_float, int16)
    _check_equivalent(original, plan.model, image(0))
    checked = min(runs, _IMAGES_FOR_CLIPPING) if spec.observer is Observer.MSE else 0  # others clip as they were told
    taps, widened = _taps(plan, statistics, limit, [image(i) for i in range(checked)])
    weights = _weights(plan, taps, statistics, spec)
    prepared = _prepared(plan.model, weights)
    qdq = to_qdq(plan.model, plan.points, taps, weights)
    record = QuantizeRecord(
        observer=spec.observer.value,
        images=runs,
        taps=taps,
        products=plan.products,
        levers=_techniques(spec, widened, centred, splits, migrations),
        factors={m.conv: m.factors for m in migrations if m.conv},
    )
    return Quantized(prepared, qdq, record)


def _check_equivalent(original: onnx.ModelProto, changed: onnx.ModelProto, image: F32) -> None:
    """Compare the outputs of both float graphs on one image."""
    (name,) = (value.name for value in original.graph.input)
    for before, after in zip(
        *(open_session(m.SerializeToString(), lean=True).run(None, {name: image}) for m in (original, changed)),
        strict=True,
    ):
        worst = float(np.abs(after - before).max() / max(float(np.ptp(before)), 1e-30))
        if not worst <= _TOLERANCE:
            raise StageError(
                f"scale migration and centring change the network by {worst:.1e} of its output range",
                hint="set quantize.migrate and quantize.centre to false, and report this as a bug",
            )


def _plan(model: onnx.ModelProto, rules: PrecisionRules, in_float: Collection[str], int16: Sequence[str]) -> _Plan:
    products = find_products(model, in_float)
    inputs = conv_inputs(GraphIndex(model), products)
    return _Plan(model, products, find_quantization_points(model, rules, in_float, int16), inputs)


def _taps(
    plan: _Plan, statistics: Mapping[str, TensorStatistics], limit: Threshold, images: Sequence[F32]
) -> tuple[dict[str, Tap], int]:
    """Return the taps, and how many have a wider range than the observer's."""
    observed = {p.name: _tap(p, statistics[p.source], limit) for p in plan.points}
    taps = choose_clipping(plan.model, plan.points, observed, images)
    return taps, sum(taps[name].threshold != tap.threshold for name, tap in observed.items())


def _tap(point: QuantizationPoint, statistics: TensorStatistics, limit: Threshold) -> Tap:
    peak = statistics.maximum or 1.0
    chosen = limit(statistics.histogram) if point.precision is Precision.INT8 else peak
    return Tap(precision=point.precision, threshold=chosen, peak=peak, products=point.products)


def _weights(
    plan: _Plan, taps: Mapping[str, Tap], statistics: Mapping[str, TensorStatistics], spec: QuantizeSpec
) -> dict[str, QuantizedWeights]:
    index = GraphIndex(plan.model)
    tap_of = {name: taps[p.name] for p in plan.points for name in p.products}
    by_input: dict[tuple[str, Window, int], list[ConvWeights]] = {}
    for name, (tensor, window) in plan.inputs.items():
        weights = ConvWeights.of(index.nodes[name], index.constants)
        by_input.setdefault((tensor, window, len(weights.rows)), []).append(weights)

    def quantize(key: tuple[str, Window, int]) -> list[tuple[str, QuantizedWeights]]:
        tensor, window, groups = key
        tap, samples = tap_of[by_input[key][0].node], None
        if statistics[tensor].columns:
            samples = ConvSamples.of(statistics[tensor].sampled(window), groups, tap.scale, tap.threshold)
        return [
            (weights.node, quantize_weights(weights, samples, spec.weights, tap.scale)) for weights in by_input[key]
        ]

    return dict(pair for found in parallel_map(quantize, by_input) for pair in found)


def _prepared(model: onnx.ModelProto, weights: Mapping[str, QuantizedWeights]) -> onnx.ModelProto:
    """Return ``model`` with the dequantized weights and corrected biases."""
    out = copy_model(model)
    new = []
    for node in out.graph.node:
        if node.name not in weights:
            continue
        quantized = weights[node.name]
        node.input[1] = f"{node.name}.weight"
        new.append(numpy_helper.from_array(quantized.weight.astype(np.float32), node.input[1]))
        if quantized.bias is not None:
            node.input[:] = [*node.input[:2], f"{node.name}.bias"]
            new.append(numpy_helper.from_array(quantized.bias.astype(np.float32), node.input[2]))
    names = {tensor.name for tensor in new}
    set_constants(out, [*(t for t in out.graph.initializer if t.name not in names), *new])
    return out


def _techniques(
    spec: QuantizeSpec, widened: int, centred: int, splits: int, migrations: Sequence[Migration]
) -> tuple[str, ...]:
    """Describe the techniques applied; the texts are stored in the artifact (``levers``)."""
    found = [f"{spec.observer.value} thresholds"]
    if widened:
        found.append(f"{widened} of them widened, as clipping there changes the outputs")
    if centred:
        found.append(f"values of {centred} attention blocks centred")
    if splits:
        found.append(f"{splits} softmaxes split into two ranges, for a MatMul that takes int8 only")
    if spec.migrate:
        free = sum(not m.added for m in migrations)
        found.append(
            f"scales migrated at {len(migrations)} tensors ({free} folded at no cost, {len(migrations) - free} with an "
            "added Mul)"
        )
    channels = "output channel" if spec.weights.per_channel else "tensor"
    found.append(f"{spec.weights.scale.value} weight scales, one per {channels}")
    found.append(f"weights rounded by {spec.weights.rounding.value}")
    if spec.weights.correct_bias:
        found.append("biases corrected")
    return tuple(found)
