"""Scale migration: each channel of a convolution's input gets a range of its own, and the weights take the factor.

x -> x / s, W -> W * s per input channel changes nothing in float and lets one int8 scale serve every channel
(SmoothQuant, Xiao et al., ICML 2023; RepQ-ViT, Li et al., ICCV 2023, for alpha = 1; between two convolutions it is
cross-layer equalization, Nagel et al., ICCV 2019). Where the division costs nothing, it goes into the constants of
what makes x: the last factor of a GELU, the convolution before a ReLU. Else it is one multiplication more, taken only
where it pays. A compiler that folds factors into the next convolution undoes both but the convolution's: there, only
that is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpudeploy.quantize.calibrate import ConvInputs, Seen
from bpudeploy.quantize.observer import Histogram
from bpudeploy.quantize.patches import Window
from bpudeploy.quantize.taps import Place, Reading
from bpudeploy.quantize.weights import Kernel, on_grid
from bpudeploy.spec.precision import Precision

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]
    F64 = NDArray[np.float64]

MIGRATED = ".migrated"
_PAYS = 0.5
"""Below which share of its squared error a layer must come where migration adds a Mul; free, it is always done."""
_FLOOR = 2.0**-10
"""A channel's peak counts as at least this share of the largest: a channel that calibration hardly saw stays small."""
_TRIED = 256
_LEVELS = Precision.INT8.levels
_SCALED_THROUGH = frozenset({"Relu", "LeakyRelu"})
"""f(x / s) = f(x) / s for s > 0, and the accelerator keeps nothing between it and the Conv before it."""


@dataclass(frozen=True)
class Migration:
    """What was done at one tap: ``added`` is the multiplication that it cost, "" where it was free.

    ``error`` is the squared error of the layer's output, over what it was without. ``maker`` is the Conv that took
    the division into its weights, if one did, and ``factors`` what its output channels were multiplied by.
    """

    tap: str
    added: str
    error: float
    maker: str = ""
    factors: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class _Reader:
    """A Conv that reads the tap: its weights, and columns of its input."""

    kernel: Kernel
    tensor: str
    window: Window
    columns: F32


Limit = Callable[[Histogram], float]
"""The threshold of a histogram."""


def migrate(
    model: onnx.ModelProto,
    places: Sequence[Place],
    seen: dict[str, Seen],
    inputs: ConvInputs,
    limit: Limit,
    *,
    factors_stay: bool,
) -> tuple[onnx.ModelProto, tuple[Migration, ...]]:
    """Return ``model`` with migrated scales; ``seen`` is brought to the new ranges.

    Args:
        factors_stay: the compiler keeps a factor where it is written; else only a Conv's weights take a division.
        inputs: of each Conv that takes integers the tensor that it reads, and its window.
    """
    import numpy as np
    import onnx

    out = onnx.ModelProto()
    out.CopyFrom(model)
    done: list[Migration] = []
    reading = Reading(out)
    for place in places:
        if place.precision is not Precision.INT8 or not place.products or place.tensor != place.source:
            continue
        readers = _readers(reading, place, inputs, seen)
        if not readers:
            continue
        others = reading.uses(place.tensor, place.products).others
        if any(tensor != place.tensor or node in place.readers for tensor, node in others):
            continue  # who else reads the rounded values, or a view that a product reads, would get the divided ones
        maker = None if others else _constant_maker(reading, place)
        if not factors_stay and (maker is None or maker.op_type != "Conv"):
            continue
        peaks = _peaks(seen, readers)
        if peaks is None:
            continue
        factors = peaks / np.exp(np.log(peaks).mean())
        error = _error(readers, factors, peaks, limit) / max(_error(readers, np.ones_like(peaks), peaks, limit), 1e-30)
        if maker is None and error > _PAYS:
            continue
        for reader in readers:
            _scale_weights(out, reader, factors)
        if maker is not None:
            _scale_maker(out, maker, 1.0 / factors)
            added = ""
        else:
            added = _insert(out, place, 1.0 / factors)
        reading = Reading(out)
        for tensor in dict.fromkeys([place.source, *(r.tensor for r in readers)]):
            name = added if added and tensor == place.source else tensor
            seen[name] = _brought(seen[tensor], factors)
        conv = maker.name if maker is not None and maker.op_type == "Conv" else ""
        done.append(Migration(place.name, added, error, conv, tuple((1.0 / factors).tolist()) if conv else ()))
    return out, tuple(done)


def _readers(reading: Reading, place: Place, inputs: ConvInputs, seen: Mapping[str, Seen]) -> list[_Reader]:
    """Return the Convs that read the tap; none if a MatMul does, or a view mixes its channels."""
    found = []
    for name in place.products:
        if name not in inputs:
            return []
        tensor, window = inputs[name]
        view = tensor
        while view != place.tensor:
            if not _keeps_channels(reading, reading.maker[view]):
                return []
            view = reading.maker[view].input[0]
        if not seen[tensor].columns:
            return []
        found.append(
            _Reader(Kernel.of(reading.nodes[name], reading.constants), tensor, window, seen[tensor].drawn(window))
        )
    return found


def _keeps_channels(reading: Reading, node: onnx.NodeProto) -> bool:
    from onnx import numpy_helper

    if node.op_type == "Identity":
        return True
    if node.op_type != "Slice" or len(node.input) < 4 or node.input[3] not in reading.constants:
        return False
    return 1 not in [int(axis) for axis in numpy_helper.to_array(reading.constants[node.input[3]])]


def _constant_maker(reading: Reading, place: Place) -> onnx.NodeProto | None:
    """Return the node whose constants can take the division: a Mul or Div by a constant, or a Conv; or None."""
    node, tensor = reading.maker.get(place.tensor), place.tensor
    while node is not None and node.op_type in _SCALED_THROUGH:
        tensor = node.input[0]
        if len(reading.readers[tensor]) != 1 or tensor in reading.outputs:
            return None
        node = reading.maker.get(tensor)
    if node is None:
        return None
    if node.op_type == "Conv" and node.input[1] in reading.constants:
        return node
    if node.op_type in ("Mul", "Div") and node.input[1] in reading.constants:
        return node
    return None


def _peaks(seen: Mapping[str, Seen], readers: Sequence[_Reader]) -> F64 | None:
    """Return each channel's largest |x|, none below ``_FLOOR`` of the largest; None if all are 0."""
    import numpy as np

    found = [seen[r.tensor].peaks for r in readers]
    peaks: F64 = np.max([each for each in found if each is not None], axis=0).astype(np.float64)
    return np.maximum(peaks, peaks.max() * _FLOOR) if peaks.max() > 0.0 else None


def _error(readers: Sequence[_Reader], factors: F64, peaks: F64, limit: Limit) -> float:
    """Return the squared error of what the tap's readers give, with their weights and x / ``factors`` in int8."""
    import numpy as np

    total = 0.0
    for reader in readers:
        spread = reader.kernel.spread(factors).astype(np.float32)
        columns = reader.kernel.grouped(reader.columns[:, :_TRIED])
        rows, inputs = reader.kernel.rows.astype(np.float32) * spread, columns / spread.transpose(0, 2, 1)
        step = np.float32(limit(_histogram(inputs, float((peaks / factors).max()))) / _LEVELS)
        steps = np.maximum(np.abs(rows).max(axis=2, keepdims=True) / np.float32(_LEVELS), np.float32(1e-30))
        rounded = on_grid(inputs, step, _LEVELS)
        total += float(((np.rint(rows / steps) * steps @ rounded - rows @ inputs) ** 2).sum())
    return total


def _histogram(values: NDArray[np.floating], peak: float) -> Histogram:
    import numpy as np

    made = Histogram()
    made.add(values.astype(np.float32))
    made.add(np.array([peak], np.float32))
    return made


def _brought(seen: Seen, factors: F64) -> Seen:
    """Return what calibration would have seen of x / factors; the histogram is that of the columns kept."""
    import numpy as np

    assert seen.peaks is not None
    peaks = (seen.peaks / factors).astype(np.float32)
    columns: dict[Window, list[F32]] = {}
    for window in seen.columns:
        drawn = seen.drawn(window)
        spread = np.repeat(factors, len(drawn) // len(factors))[:, None]
        columns[window] = [(drawn / spread).astype(np.float32)]
    sample = np.concatenate([part.reshape(-1) for parts in columns.values() for part in parts])
    return Seen(_histogram(sample, float(peaks.max())), float(peaks.max()), peaks, columns)


def _scale_weights(model: onnx.ModelProto, reader: _Reader, factors: F64) -> None:
    node = next(n for n in model.graph.node if n.name == reader.kernel.node)
    weight = (reader.kernel.rows * reader.kernel.spread(factors)).reshape(reader.kernel.shape)
    node.input[1] = _constant(model, f"{node.name}.weight{MIGRATED}", weight)


def _scale_maker(model: onnx.ModelProto, maker: onnx.NodeProto, factors: F64) -> None:
    """Multiply what ``maker`` gives by ``factors``, in its constants."""
    from onnx import numpy_helper

    constants = {t.name: t for t in model.graph.initializer}
    node = next(n for n in model.graph.node if n.name == maker.name)
    taken = factors.reshape(1, -1, 1, 1)
    given = numpy_helper.to_array(constants[node.input[1]]).astype("float64")
    if node.op_type == "Conv":
        node.input[1] = _constant(model, f"{node.name}.weight.made", given * factors.reshape(-1, 1, 1, 1))
        if len(node.input) > 2:
            bias = numpy_helper.to_array(constants[node.input[2]]).astype("float64")
            node.input[2] = _constant(model, f"{node.name}.bias.made", bias * factors)
        return
    node.input[1] = _constant(
        model, f"{node.name}.factor{MIGRATED}", given * taken if node.op_type == "Mul" else given / taken
    )


def _insert(model: onnx.ModelProto, place: Place, factors: F64) -> str:
    """Put a Mul behind the tap for its products alone, and return what it gives."""
    from onnx import helper

    name = f"{place.tensor}{MIGRATED}"
    constant = _constant(model, f"{name}.factor", factors.reshape(1, -1, 1, 1))
    views = {n.output[0]: n for n in model.graph.node}
    for node in model.graph.node:
        for i, given in enumerate(node.input):
            if given == place.tensor and node.name in place.readers:
                node.input[i] = name
    made = helper.make_node("Mul", [place.tensor, constant], [name], name=name)
    at = [*model.graph.node].index(views[place.tensor]) + 1 if place.tensor in views else 0
    model.graph.node.insert(at, made)
    return name


def _constant(model: onnx.ModelProto, name: str, value: F64) -> str:
    """Store ``value`` as float32 under ``name``, in place of what was there, and return the name."""
    from onnx import numpy_helper

    made = numpy_helper.from_array(value.astype("float32"), name)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(made)
            return name
    model.graph.initializer.append(made)
    return name
