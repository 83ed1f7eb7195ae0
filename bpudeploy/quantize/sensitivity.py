"""How much each int8 tap alone does to the outputs, in one session: every tap has a switch, an input of the graph.

The other way round, what a network that is int8 throughout gains when one tap is int16, predicts less: errors at other
taps hide it. On the quickstart's model without levers, ranks by that over 4 images agree with those over 7 with 0.64
(Spearman), ranks by one tap alone with 0.97, and what it promotes leaves a smaller error at the same predicted cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from bpudeploy.host import open_session
from bpudeploy.quantize.findings import Candidate
from bpudeploy.quantize.price import Slowdown
from bpudeploy.quantize.qdq import OPSET
from bpudeploy.quantize.record import QuantizeRecord, int8_taps
from bpudeploy.quantize.taps import ROUNDING, Reading
from bpudeploy.spec.precision import Precision, PrecisionRules

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]
    F64 = NDArray[np.float64]

_ZERO = "switch.zero"


def can_be_int16(quantized: onnx.ModelProto, rules: PrecisionRules) -> tuple[str, ...]:
    """Return the int8 taps whose every product may take int16, in the graph's order."""
    ops = {node.name: node.op_type for node in quantized.graph.node}
    return tuple(
        name
        for name, tap in int8_taps(QuantizeRecord.read(quantized)).items()
        if all(Precision.INT16 in rules.allowed(ops[product]) for product in tap.products)
    )


def rank(
    graph: onnx.ModelProto,
    quantized: onnx.ModelProto,
    rules: PrecisionRules,
    images: Iterable[F32],
    slowdown: Slowdown,
    shifts: Mapping[str, F64],
    progress: Callable[[int], None],
) -> tuple[Candidate, ...]:
    """Return every int8 tap that feeds products: by error over cost, the best first; then those that stay int8.

    Args:
        graph: the prepared float graph: that of ``quantized`` before anything but its weights was rounded.
        images: float32 (N, 3, H, W), normalised; each is run once in float and once for each tap.
        shifts: what is in the biases for the sake of int8 inputs (``bias_shifts``): out of them while a tap is float.
        progress: called with the number of runs done.
    """
    taps = int8_taps(QuantizeRecord.read(quantized))
    errors = _errors(graph, quantized, list(taps), images, shifts, progress)
    able = frozenset(can_be_int16(quantized, rules))
    found = [
        Candidate(
            tap=name,
            products=tap.products,
            error=errors[name],
            cost=slowdown([name]) - 1.0 if name in able else None,
        )
        for name, tap in taps.items()
    ]
    return tuple(sorted(found, key=_order))


def _order(candidate: Candidate) -> tuple[bool, float, float]:
    cost = candidate.cost or 0.0
    ratio = candidate.error / cost if cost > 0.0 else (float("inf") if candidate.error else 0.0)
    return candidate.cost is None, -ratio, -candidate.error


def _errors(
    graph: onnx.ModelProto,
    quantized: onnx.ModelProto,
    taps: Sequence[str],
    images: Iterable[F32],
    shifts: Mapping[str, F64],
    progress: Callable[[int], None],
) -> dict[str, float]:
    """Return of each tap the mean squared difference that it makes, over the outputs' variance."""
    import numpy as np

    session = open_session(_switched(graph, quantized, taps, shifts).SerializeToString())
    fed, off = graph.graph.input[0].name, {_switch(name): np.array(False) for name in taps}
    sums, done = dict.fromkeys(taps, 0.0), 0
    rows: list[F64] = []
    for image in images:
        plain = _flat(session.run(None, {fed: image, **off}))
        rows.append(plain)
        for name in taps:
            made = _flat(session.run(None, {fed: image, **off, _switch(name): np.array(True)}))
            sums[name] += float(((made - plain) ** 2).mean())
            done += 1
            progress(done)
    spread = float(np.concatenate(rows).var()) if rows else 0.0
    return {name: total / (len(rows) * spread) if spread else 0.0 for name, total in sums.items()}


def _flat(outputs: Sequence[F32]) -> F64:
    import numpy as np

    return np.concatenate([output.reshape(-1) for output in outputs]).astype(np.float64)


def _switch(tap: str) -> str:
    return f"{tap}.switch"


def _switched(
    graph: onnx.ModelProto, quantized: onnx.ModelProto, taps: Sequence[str], shifts: Mapping[str, F64]
) -> onnx.ModelProto:
    """Return ``graph`` with a switch at each of ``taps``: an input, true where it is rounded to int8."""
    import onnx
    from onnx import helper

    out = onnx.ModelProto()
    out.CopyFrom(graph)
    del out.opset_import[:]
    out.opset_import.append(helper.make_opsetid("", OPSET))
    writer = _Switches(out, quantized)
    for name in taps:
        writer.add(name, shifts)
    writer.finish()
    return out


class _Switches:
    """Puts switches into ``model``; what reads a tap is what reads its rounded form in ``quantized``."""

    def __init__(self, model: onnx.ModelProto, quantized: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = {node.name: node for node in model.graph.node}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.record = QuantizeRecord.read(quantized)
        self.rounded = Reading(quantized)
        self.readers: dict[str, list[tuple[str, int]]] = {}
        for node in quantized.graph.node:
            for i, name in enumerate(node.input):
                if node.op_type not in ROUNDING:
                    self.readers.setdefault(name, []).append((node.name, i))
        self.after: dict[str, list[onnx.NodeProto]] = {}

    def add(self, tap: str, shifts: Mapping[str, F64]) -> None:
        """Put a switch at one tap, and at the biases that know of it."""
        import onnx
        from onnx import helper

        tensor = self.rounded.unrounded(f"{tap}.{Precision.INT8}")
        self.model.graph.input.append(helper.make_tensor_value_info(_switch(tap), onnx.TensorProto.BOOL, []))
        self.after.setdefault(tensor, []).append(self._rounded(tap, tensor))
        for reader, i in self.readers[f"{tap}.rounded"]:
            self.nodes[reader].input[i] = f"{tap}.switched"
        for product in self.record.taps[tap].products:
            if product in shifts and len(self.nodes[product].input) > 2:
                self.after[tensor].append(self._bias(tap, self.nodes[product], shifts[product]))

    def _rounded(self, tap: str, tensor: str) -> onnx.NodeProto:
        """Return the choice: an If, whose other side costs nothing where it is not taken."""
        import numpy as np
        import onnx
        from onnx import helper

        self._put(_ZERO, np.array(0, np.int8))
        scale = self._put(f"{tap}.switch.scale", np.array(self.record.taps[tap].scale, np.float32))
        made = [helper.make_tensor_value_info(f"{tap}.{side}", onnx.TensorProto.FLOAT, None) for side in ("on", "off")]
        on = [
            helper.make_node("QuantizeLinear", [tensor, scale, _ZERO], [f"{tap}.on.integers"]),
            helper.make_node("DequantizeLinear", [f"{tap}.on.integers", scale, _ZERO], [f"{tap}.on"]),
        ]
        off = [helper.make_node("Identity", [tensor], [f"{tap}.off"])]
        return helper.make_node(
            "If",
            [_switch(tap)],
            [f"{tap}.switched"],
            then_branch=helper.make_graph(on, "on", [], made[:1]),
            else_branch=helper.make_graph(off, "off", [], made[1:]),
        )

    def _bias(self, tap: str, conv: onnx.NodeProto, shift: F64) -> onnx.NodeProto:
        import numpy as np
        from onnx import helper, numpy_helper

        held = numpy_helper.to_array(self.constants[conv.input[2]])
        plain = self._put(f"{conv.name}.switch.bias", (held - shift).astype(np.float32))
        made = helper.make_node("Where", [_switch(tap), conv.input[2], plain], [f"{conv.name}.switched.bias"])
        conv.input[2] = made.output[0]
        return made

    def _put(self, name: str, value: NDArray[np.generic]) -> str:
        from onnx import numpy_helper

        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(value, name)
            self.model.graph.initializer.append(self.constants[name])
        return name

    def finish(self) -> None:
        """Put each switch behind what it reads."""
        import onnx

        nodes = [made for value in self.model.graph.input for made in self.after.get(value.name, ())]
        for node in self.model.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            nodes += [copy, *(made for name in node.output for made in self.after.get(name, ()))]
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)
