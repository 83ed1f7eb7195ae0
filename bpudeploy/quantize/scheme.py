"""The quantization pipeline: from a float graph and calibration images to a QDQ graph, one technique after another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from glob import escape

import numpy as np
import onnx
from onnx import numpy_helper

from bpudeploy.errors import StageError
from bpudeploy.host import open_session, parallel_map
from bpudeploy.onnxmodel import copy_model
from bpudeploy.quantize.arrays import F32
from bpudeploy.quantize.budget import choose_int16
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
from bpudeploy.quantize.exponents import RAISED, raise_exponents, raised
from bpudeploy.quantize.migrate import Migration, Threshold, migrate
from bpudeploy.quantize.observer import threshold
from bpudeploy.quantize.one_sided import centre_ranges
from bpudeploy.quantize.onnx_edit import set_constants
from bpudeploy.quantize.qdq import to_qdq
from bpudeploy.quantize.record import HEADROOM, QuantizeRecord, Tap
from bpudeploy.quantize.split_softmax import split_softmax
from bpudeploy.quantize.taps import GraphIndex, QuantizationPoint, find_products, find_quantization_points
from bpudeploy.quantize.weights import ConvSamples, ConvWeights, QuantizedWeights, quantize_weights
from bpudeploy.quantize.window import Window
from bpudeploy.spec.precision import Precision, PrecisionRules
from bpudeploy.spec.quantize import Observer, QuantizeSpec

_TOLERANCE = 1e-4
"""Limit for the change by centring and migration, which should be only float32 rounding: worst |difference| relative
to the range of the outputs."""
_FEW = 4
"""Images whose means and outputs choose: any mean is exact, and what carries a network is in each image."""
_SMALL = 0.001
"""A layer with at most this part of the multiplications is ``small``: int16 costs it nothing that counts."""


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

    @cached_property
    def fine(self) -> frozenset[str]:
        """Tensors that need every bit: softmaxes and exponentials, and squares, whose mean a lookup table reads."""
        return frozenset(
            node.output[0]
            for node in self.model.graph.node
            if node.op_type in ("Softmax", "Exp") or (node.op_type == "Mul" and node.input[0] == node.input[1])
        )

    @cached_property
    def exponents(self) -> frozenset[str]:
        """Tensors of raised exponents."""
        return raised(self.model)

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
    macs: Mapping[str, int] | None = None,
) -> Quantized:
    """Quantize ``model`` by the rules of a march, in one pass over the calibration images.

    Args:
        keep_float: nodes whose values have too wide a range for int8; they use ``rules.elsewhere``.
        on_cpu: nodes that the compiler of the march leaves to the CPU, in float.
        image: returns the input of run 0 to ``runs`` - 1: float32 (N, 3, H, W), normalised.
        macs: multiply-accumulates by node, to know what int16 costs; without them, none is spent on it.

    Raises:
        StageError: a tensor is not finite, or scale migration or centring changes the outputs of the float graph.
    """
    planned = _planner(keep_float, on_cpu, rules, spec, macs or {})
    first = [image(i) for i in range(min(runs, _FEW))]
    limit = partial(threshold, observer=spec.observer, percentile=spec.percentile)
    exact = _rewrite(model, rules, spec, first, planned, limit)
    plan = planned(exact.model, ())
    statistics = observe(exact.model, plan.request(), (image(i) for i in range(runs)), runs, progress)
    migrations: tuple[Migration, ...] = ()
    if spec.migrate:
        migrated, migrations = migrate(
            exact.model, plan.points, statistics, plan.inputs, limit, factors_stay=not rules.folds_factors
        )
        plan = planned(migrated, ())
    _check_equivalent(model, plan.model, first[0])
    judged = first if spec.observer is Observer.MSE else []  # another observer clips as it was told
    taps, widened = _taps(plan, statistics, limit, judged)
    spent = _spent(plan, taps, rules, first, macs or {}, spec.int16_budget)
    if spent:
        plan = planned(plan.model, [escape(p.source) for p in plan.points if p.name in spent])
        kept = {name: tap for name, tap in taps.items() if name not in spent}
        taps = {p.name: kept.get(p.name) or _tap(plan, p, statistics[p.source], limit) for p in plan.points}
    weights = _weights(plan, taps, statistics, spec)
    prepared = _prepared(plan.model, weights)
    qdq = to_qdq(plan.model, plan.points, taps, weights)
    record = QuantizeRecord(
        observer=spec.observer.value,
        images=runs,
        taps=taps,
        products=plan.products,
        levers=_techniques(spec, exact, migrations, widened, len(spent)),
        factors=exact.factors | exact.sums | {m.conv: m.factors for m in migrations if m.conv},
    )
    return Quantized(prepared, qdq, record)


_Planner = Callable[[onnx.ModelProto, Iterable[str]], _Plan]
"""Plans a graph, with further patterns of int16."""


def _planner(
    keep_float: Collection[str],
    on_cpu: Collection[str],
    rules: PrecisionRules,
    spec: QuantizeSpec,
    macs: Mapping[str, int],
) -> _Planner:
    """Return what plans a graph by the rules of the march and the recipe."""
    in_float = frozenset(on_cpu) | (frozenset(keep_float) if rules.elsewhere is Precision.FLOAT32 else frozenset())
    int16 = (*spec.int16, *(keep_float if rules.elsewhere is Precision.INT16 else ()))
    small = [name for name, count in macs.items() if count <= _SMALL * sum(macs.values())]
    return lambda model, more: _plan(model, rules, in_float, (*int16, *more), small)


@dataclass(frozen=True)
class _Rewritten:
    """``model`` after the exact changes that need no full calibration.

    ``factors``: of the channels of each attention's values and their product; ``sums``: of sums of exponentials.
    """

    model: onnx.ModelProto
    factors: dict[str, tuple[float, ...]]
    sums: dict[str, tuple[float, ...]]
    centred: int
    one_sided: int
    splits: int


def _rewrite(
    model: onnx.ModelProto,
    rules: PrecisionRules,
    spec: QuantizeSpec,
    images: Sequence[F32],
    planned: _Planner,
    limit: Threshold,
) -> _Rewritten:
    """Centre values and one-sided ranges, and split softmaxes, as the recipe and the march want it."""
    wide = rules.elsewhere is Precision.INT16
    factors: dict[str, tuple[float, ...]] = {}
    centred = one_sided = splits = 0
    if spec.centre:
        model, factors = centre_values(model, images, equalize=spec.migrate)
        centred = sum(node.op_type == "Conv" and node.name in factors for node in model.graph.node)
    sums: dict[str, tuple[float, ...]] = {}
    if wide:
        model, sums = raise_exponents(model)
    if spec.split and wide and Precision.INT16 not in rules.matmul:
        model, splits = split_softmax(model)
    if spec.centre and wide and rules.folds_factors:  # elsewhere, scales migrate into the activation at no cost
        model, one_sided = centre_ranges(model, planned(model, ()).points, images, limit)
    return _Rewritten(model, factors, sums, centred, one_sided, splits)


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


def _plan(
    model: onnx.ModelProto,
    rules: PrecisionRules,
    in_float: Collection[str],
    int16: Sequence[str],
    small: Collection[str],
) -> _Plan:
    products = find_products(model, in_float)
    inputs = conv_inputs(GraphIndex(model), products)
    return _Plan(model, products, find_quantization_points(model, rules, in_float, int16, small), inputs)


def _taps(
    plan: _Plan, statistics: Mapping[str, TensorStatistics], limit: Threshold, images: Sequence[F32]
) -> tuple[dict[str, Tap], int]:
    """Return the taps, and how many have a wider range than the observer's."""
    observed = {p.name: _tap(plan, p, statistics[p.source], limit) for p in plan.points}
    taps = choose_clipping(plan.model, plan.points, observed, images)
    return taps, sum(taps[name].threshold != tap.threshold for name, tap in observed.items())


def _spent(
    plan: _Plan,
    taps: Mapping[str, Tap],
    rules: PrecisionRules,
    images: Sequence[F32],
    macs: Mapping[str, int],
    percent: float,
) -> tuple[str, ...]:
    """Return the taps that the recipe's budget of int16 promotes: on a CPU int16 is float, of another price."""
    if not macs or not percent or rules.elsewhere is not Precision.INT16:
        return ()
    return choose_int16(plan.model, plan.points, taps, rules, images, macs, percent / 100.0)


def _tap(plan: _Plan, point: QuantizationPoint, statistics: TensorStatistics, limit: Threshold) -> Tap:
    peak = statistics.maximum or 1.0
    if point.precision is Precision.INT8:
        chosen = limit(statistics.histogram)
    elif point.source in plan.exponents:
        chosen = RAISED
    else:
        chosen = HEADROOM * peak if point.products and point.source not in plan.fine else peak
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
    spec: QuantizeSpec, exact: _Rewritten, migrations: Sequence[Migration], widened: int, spent: int
) -> tuple[str, ...]:
    """Describe the techniques applied; the texts are stored in the artifact (``levers``)."""
    found = [f"{spec.observer.value} thresholds"]
    if widened:
        found.append(f"{widened} of them widened, as clipping there changes the outputs")
    if exact.centred:
        found.append(f"values of {exact.centred} attention blocks centred{' and equalized' * spec.migrate}")
    if exact.one_sided:
        found.append(f"{exact.one_sided} one-sided activations centred, with a Sub each")
    if exact.splits:
        found.append(f"{exact.splits} softmaxes split into two ranges, for a MatMul that takes int8 only")
    if spec.migrate:
        free = sum(not m.added for m in migrations)
        found.append(
            f"scales migrated at {len(migrations)} tensors ({free} folded at no cost, {len(migrations) - free} with an "
            "added Mul)"
        )
    if spent:
        found.append(f"{spent} taps in int16 where it helps most, within {spec.int16_budget:g} % of the predicted time")
    channels = "output channel" if spec.weights.per_channel else "tensor"
    found.append(f"{spec.weights.scale.value} weight scales, one per {channels}")
    found.append(f"weights rounded by {spec.weights.rounding.value}")
    if spec.weights.correct_bias:
        found.append("biases corrected")
    return tuple(found)
