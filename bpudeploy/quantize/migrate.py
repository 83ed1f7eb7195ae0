"""Scale migration: equalize the channel ranges of a convolution's input, and move the factors into its weights.

x -> x / s, W -> W * s per input channel changes nothing in float, and lets a single int8 scale serve every channel
(SmoothQuant, Xiao et al., ICML 2023; RepQ-ViT, Li et al., ICCV 2023, for alpha = 1; between two convolutions it is
cross-layer equalization, Nagel et al., ICCV 2019). If possible, the division is folded at no cost into constants of
the node that produces x: the last factor of a GELU, or the convolution before a ReLU. Otherwise it needs an added Mul,
which is used only if it reduces the error enough.

A compiler that folds factors into the following convolution would undo all of this but a division in a convolution's
weights. hb_mapper 1.24.3 folds a factor for each channel; one for each channel and row it leaves alone, and multiplies
by it in 9 us (384 channels of 4 x 65 in int16 on X5, where the convolution after it takes 84 us in int8, 180 in int16).
So for such a compiler, a Mul has its factors once for each row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from bpudeploy.onnxmodel import copy_model, shapes_of
from bpudeploy.quantize.arrays import F32, F64
from bpudeploy.quantize.calibrate import ConvInputs, TensorStatistics
from bpudeploy.quantize.observer import Histogram
from bpudeploy.quantize.onnx_edit import constant, put_constant
from bpudeploy.quantize.taps import GraphIndex, QuantizationPoint
from bpudeploy.quantize.weights import ConvWeights, fake_quantize
from bpudeploy.quantize.window import Window
from bpudeploy.spec.precision import Precision

MIGRATED = ".migrated"
_MAX_ERROR_WITH_MUL = 0.5
"""Migration that needs a Mul is done only if it reduces a layer's squared error to at most this fraction; migration at
no cost if it reduces it at all."""
_WORTH_A_MUL = 512
"""A Mul in int16 takes as long as 160 multiply-accumulates in int8 for each of its values, by hb_mapper 1.24.3 for X5:
where a factor must not be folded, it is added before layers with at least these."""
_STRENGTHS = (1.0, 0.5)
"""Exponents of the channels' peaks: 1 equalizes them and may widen the weights too much, 0.5 goes half of the way."""
_FLOOR = 2.0**-10
"""Lower limit of a channel's peak, relative to the largest: channels that are almost always zero stay small."""
_TRIAL_COLUMNS = 256
_LEVELS = Precision.INT8.levels
_SCALED_THROUGH = frozenset({"Relu", "LeakyRelu"})
"""f(x / s) = f(x) / s for s > 0, and the accelerator fuses them with the Conv before."""


@dataclass(frozen=True)
class Migration:
    """One migrated tap. ``added``: the Mul it needed, or "" if it was folded at no cost.

    ``conv``: the Conv whose weights absorbed the division, or "". ``factors``: those of its output channels.
    """

    added: str
    conv: str
    factors: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class _Reader:
    """A Conv that reads the tap: its weights, and sampled columns of its input."""

    weights: ConvWeights
    tensor: str
    columns: F32


Threshold = Callable[[Histogram], float]
"""Returns the clipping threshold of a histogram."""


def migrate(
    model: onnx.ModelProto,
    points: Sequence[QuantizationPoint],
    statistics: dict[str, TensorStatistics],
    inputs: ConvInputs,
    threshold: Threshold,
    *,
    factors_stay: bool,
) -> tuple[onnx.ModelProto, tuple[Migration, ...]]:
    """Return a copy of ``model`` with migrated scales, and what was done; rescales ``statistics`` accordingly.

    Args:
        inputs: by Conv with integer inputs, the tensor that it reads and its window.
        factors_stay: the compiler keeps the factors of channels where they are.
    """
    out = copy_model(model)
    done: list[Migration] = []
    index, shapes = GraphIndex(out), shapes_of(onnx.shape_inference.infer_shapes(model).graph)
    for point in points:
        if point.precision is not Precision.INT8 or not point.products or point.tensor != point.source:
            continue
        readers = _readers(index, point, inputs, statistics)
        if not readers:
            continue
        others = index.readers_through_views(point.tensor, point.products).others
        if any(tensor != point.tensor or node in point.readers for tensor, node in others):
            continue  # another node would read the divided values
        producer = None if others else _scalable_producer(index, point)
        if not factors_stay and producer is not None and producer.op_type != "Conv":
            producer = None
        repeats = (1, 1) if factors_stay else _repeats(shapes[point.tensor], readers)
        if producer is None and repeats is None:
            continue
        peaks = _peaks(statistics, readers)
        if peaks is None:
            continue
        factors, error = _best_factors(readers, peaks, threshold)
        if error >= (1.0 if producer is not None else _MAX_ERROR_WITH_MUL):
            continue
        for reader in readers:
            _scale_weights(out, index.nodes[reader.weights.node], reader, factors)
        added, conv = "", ""
        if producer is not None:
            _scale_producer(out, producer, 1.0 / factors)
            conv = producer.name if producer.op_type == "Conv" else ""
        elif repeats is not None:
            added = _insert_mul(out, point, 1.0 / factors, repeats)
        index = GraphIndex(out)
        for tensor in dict.fromkeys([point.source, *(r.tensor for r in readers)]):
            name = added if added and tensor == point.source else tensor
            statistics[name] = _rescaled(statistics[tensor], factors)
        done.append(Migration(added, conv, tuple((1.0 / factors).tolist()) if conv else ()))
    return out, tuple(done)


def _readers(
    index: GraphIndex, point: QuantizationPoint, inputs: ConvInputs, statistics: Mapping[str, TensorStatistics]
) -> list[_Reader]:
    """Return the Convs that read the tap; none if a MatMul reads it too, or a view mixes its channels."""
    found = []
    for name in point.products:
        if name not in inputs:
            return []
        tensor, window = inputs[name]
        view = tensor
        while view != point.tensor:
            if not _keeps_channels(index, index.producers[view]):
                return []
            view = index.producers[view].input[0]
        if not statistics[tensor].columns:
            return []
        weights = ConvWeights.of(index.nodes[name], index.constants)
        found.append(_Reader(weights, tensor, statistics[tensor].sampled(window)))
    return found


def _keeps_channels(index: GraphIndex, node: onnx.NodeProto) -> bool:
    if node.op_type == "Identity":
        return True
    if node.op_type != "Slice" or len(node.input) < 4 or node.input[3] not in index.constants:
        return False
    return 1 not in [int(axis) for axis in numpy_helper.to_array(index.constants[node.input[3]])]


def _scalable_producer(index: GraphIndex, point: QuantizationPoint) -> onnx.NodeProto | None:
    """Return the node whose constants can absorb the division: a Conv, or a Mul or Div by a constant; or None."""
    node, tensor = index.producers.get(point.tensor), point.tensor
    while node is not None and node.op_type in _SCALED_THROUGH:
        tensor = node.input[0]
        if len(index.readers[tensor]) != 1 or tensor in index.outputs:
            return None
        node = index.producers.get(tensor)
    scalable = node is not None and node.op_type in ("Conv", "Mul", "Div") and node.input[1] in index.constants
    return node if scalable else None


def _repeats(shape: tuple[int, ...], readers: Sequence[_Reader]) -> tuple[int, int] | None:
    """Return how often factors are repeated along rows and columns, so that a compiler sees more than channels.

    None if the tensor has one pixel, or if a Mul costs too much beside what reads it.
    """
    if sum(reader.weights.macs_per_value for reader in readers) < _WORTH_A_MUL:
        return None
    height, width = shape[2:]
    if height > 1:
        return height, 1
    return (1, width) if width > 1 else None


def _peaks(statistics: Mapping[str, TensorStatistics], readers: Sequence[_Reader]) -> F64 | None:
    """Return the largest |x| per channel, at least ``_FLOOR`` of the overall maximum; None if all are 0."""
    found = [statistics[r.tensor].peaks for r in readers]
    peaks: F64 = np.max([each for each in found if each is not None], axis=0).astype(np.float64)
    return np.maximum(peaks, peaks.max() * _FLOOR) if peaks.max() > 0.0 else None


def _best_factors(readers: Sequence[_Reader], peaks: F64, threshold: Threshold) -> tuple[F64, float]:
    """Return the factors of the strength with the least error, and that error relative to no migration."""
    even = peaks / np.exp(np.log(peaks).mean())
    before = max(_error(readers, np.ones_like(peaks), peaks, threshold), 1e-30)
    tried = [(even**strength, _error(readers, even**strength, peaks, threshold) / before) for strength in _STRENGTHS]
    return min(tried, key=lambda pair: pair[1])


def _error(readers: Sequence[_Reader], factors: F64, peaks: F64, threshold: Threshold) -> float:
    """Return the squared output error of the readers, with their weights and x / ``factors`` in int8."""
    total = 0.0
    for reader in readers:
        spread = reader.weights.spread(factors).astype(np.float32)
        columns = reader.weights.grouped(reader.columns[:, :_TRIAL_COLUMNS])
        rows, inputs = reader.weights.rows.astype(np.float32) * spread, columns / spread.transpose(0, 2, 1)
        step = np.float32(threshold(_histogram(inputs, float((peaks / factors).max()))) / _LEVELS)
        steps = np.maximum(np.abs(rows).max(axis=2, keepdims=True) / np.float32(_LEVELS), np.float32(1e-30))
        rounded = fake_quantize(inputs, step, _LEVELS)
        total += float(((np.rint(rows / steps) * steps @ rounded - rows @ inputs) ** 2).sum())
    return total


def _histogram(values: NDArray[np.floating], peak: float) -> Histogram:
    histogram = Histogram()
    histogram.add(values.astype(np.float32))
    histogram.add(np.array([peak], np.float32))
    return histogram


def _rescaled(statistics: TensorStatistics, factors: F64) -> TensorStatistics:
    """Return the statistics of x / factors; the histogram is that of the sampled columns."""
    assert statistics.peaks is not None
    peaks = (statistics.peaks / factors).astype(np.float32)
    columns: dict[Window, list[F32]] = {}
    for window in statistics.columns:
        sampled = statistics.sampled(window)
        spread = np.repeat(factors, len(sampled) // len(factors))[:, None]
        columns[window] = [(sampled / spread).astype(np.float32)]
    sample = np.concatenate([part.reshape(-1) for parts in columns.values() for part in parts])
    return TensorStatistics(_histogram(sample, float(peaks.max())), float(peaks.max()), peaks, columns)


def _put(model: onnx.ModelProto, name: str, value: F64) -> str:
    return put_constant(model, name, value.astype(np.float32))


def _scale_weights(model: onnx.ModelProto, node: onnx.NodeProto, reader: _Reader, factors: F64) -> None:
    weight = (reader.weights.rows * reader.weights.spread(factors)).reshape(reader.weights.shape)
    node.input[1] = _put(model, f"{node.name}.weight{MIGRATED}", weight)


def _scale_producer(model: onnx.ModelProto, node: onnx.NodeProto, factors: F64) -> None:
    """Multiply the output of a node by ``factors``, in its constants."""
    value = constant(model, node.input[1])
    if node.op_type == "Conv":
        node.input[1] = _put(model, f"{node.name}.weight.made", value * factors.reshape(-1, 1, 1, 1))
        if len(node.input) > 2:
            node.input[2] = _put(model, f"{node.name}.bias.made", constant(model, node.input[2]) * factors)
        return
    per_channel = factors.reshape(1, -1, 1, 1)
    scaled = value * per_channel if node.op_type == "Mul" else value / per_channel
    node.input[1] = _put(model, f"{node.name}.factor{MIGRATED}", scaled)


def _insert_mul(model: onnx.ModelProto, point: QuantizationPoint, factors: F64, repeats: tuple[int, int]) -> str:
    """Insert a Mul after the tap, read by its products only; return its output."""
    name = f"{point.tensor}{MIGRATED}"
    factor = _put(model, f"{name}.factor", np.tile(factors.reshape(1, -1, 1, 1), (1, 1, *repeats)))
    position = 0
    for i, node in enumerate(model.graph.node):
        if point.tensor in node.output:
            position = i + 1
        if node.name in point.readers:
            node.input[:] = [name if given == point.tensor else given for given in node.input]
    model.graph.node.insert(position, helper.make_node("Mul", [point.tensor, factor], [name], name=name))
    return name
