"""How much each int8 tap alone changes the outputs, measured in one session: each tap has a switch, a graph input.

The opposite, the gain from one int16 tap in a network that is otherwise int8, is a worse predictor: errors at other
taps mask it. On the quickstart's model without techniques, ranks by that on 4 images correlate with those on 7 with
0.64 (Spearman), ranks by one tap alone with 0.97, and promotions chosen by them leave a smaller error at equal
predicted cost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from bpudeploy.host import open_session
from bpudeploy.onnxmodel import copy_model
from bpudeploy.quantize.arrays import F32, F64
from bpudeploy.quantize.findings import PromotionCandidate
from bpudeploy.quantize.onnx_edit import constant, put_constant, set_nodes
from bpudeploy.quantize.qdq import OPSET
from bpudeploy.quantize.record import QuantizeRecord, Tap, int8_taps
from bpudeploy.quantize.slowdown import Slowdown
from bpudeploy.quantize.taps import ROUNDING, GraphIndex, reads_int16
from bpudeploy.spec.precision import Precision, PrecisionRules

_ZERO = "switch.zero"


def can_be_int16(quantized: onnx.ModelProto, rules: PrecisionRules) -> tuple[str, ...]:
    """Return the int8 taps whose readers all support int16, in graph order."""
    index, taps = GraphIndex(quantized), int8_taps(QuantizeRecord.read(quantized))

    def able(name: str, tap: Tap) -> bool:
        found = index.readers_through_views(index.nodes[f"{name}.dequantize"].output[0], tap.products)
        readers = [index.nodes[node] for _, node in (*found.products, *found.others) if node]
        return all(reads_int16(index, node, rules) for node in readers)

    return tuple(name for name, tap in taps.items() if able(name, tap))


def rank(
    graph: onnx.ModelProto,
    quantized: onnx.ModelProto,
    rules: PrecisionRules,
    images: Iterable[F32],
    slowdown: Slowdown,
    corrections: Mapping[str, F64],
    progress: Callable[[int], None],
) -> tuple[PromotionCandidate, ...]:
    """Rank the int8 taps that feed products by error/cost, best first; those that cannot be int16 come last.

    Args:
        graph: the prepared float graph of ``quantized``, in which only weights are rounded.
        images: float32 (N, 3, H, W), normalised; each is run once in float and once per tap.
        corrections: the bias corrections for int8 inputs (``bias_corrections``), removed while a tap is float.
        progress: called with the number of finished runs.
    """
    taps = int8_taps(QuantizeRecord.read(quantized))
    errors = tap_errors(graph, quantized, list(taps), images, corrections, progress)
    able = frozenset(can_be_int16(quantized, rules))
    found = [
        PromotionCandidate(
            tap=name,
            products=tap.products,
            error=errors[name],
            cost=slowdown([name]) - 1.0 if name in able else None,
        )
        for name, tap in taps.items()
    ]
    return tuple(sorted(found, key=_order))


def _order(candidate: PromotionCandidate) -> tuple[bool, float, float]:
    cost = candidate.cost or 0.0
    ratio = candidate.error / cost if cost > 0.0 else (float("inf") if candidate.error else 0.0)
    return candidate.cost is None, -ratio, -candidate.error


def tap_errors(
    graph: onnx.ModelProto,
    quantized: onnx.ModelProto,
    taps: Sequence[str],
    images: Iterable[F32],
    corrections: Mapping[str, F64],
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, float]:
    """Return the mean squared difference that each tap alone causes, relative to the variance of the outputs.

    The arguments are those of ``rank``.
    """
    session = open_session(_with_switches(graph, quantized, taps, corrections).SerializeToString())
    fed, off = graph.graph.input[0].name, {_switch(name): np.array(False) for name in taps}
    sums, done = dict.fromkeys(taps, 0.0), 0
    rows: list[F64] = []
    for image in images:
        plain = _flat(session.run(None, {fed: image, **off}))
        rows.append(plain)
        for name in taps:
            rounded = _flat(session.run(None, {fed: image, **off, _switch(name): np.array(True)}))
            sums[name] += float(((rounded - plain) ** 2).mean())
            done += 1
            progress(done)
    spread = float(np.concatenate(rows).var()) if rows else 0.0
    return {name: total / (len(rows) * spread) if spread else 0.0 for name, total in sums.items()}


def _flat(outputs: Sequence[F32]) -> F64:
    return np.concatenate([output.reshape(-1) for output in outputs]).astype(np.float64)


def _switch(tap: str) -> str:
    return f"{tap}.switch"


def _with_switches(
    graph: onnx.ModelProto, quantized: onnx.ModelProto, taps: Sequence[str], corrections: Mapping[str, F64]
) -> onnx.ModelProto:
    """Return ``graph`` with a switch at each of ``taps``: an input, true to round the tap to int8.

    The readers of a tap are those of its rounded form in ``quantized``. A switch is after the node whose output it
    reads; it also restores the biases that are corrected for its tap.
    """
    out = copy_model(graph)
    del out.opset_import[:]
    out.opset_import.append(helper.make_opsetid("", OPSET))
    index, record = GraphIndex(quantized), QuantizeRecord.read(quantized)
    nodes = {node.name: node for node in out.graph.node}
    after: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
    for tap in taps:
        tensor, rounded, switched = index.unrounded(f"{tap}.{Precision.INT8}"), f"{tap}.rounded", f"{tap}.switched"
        out.graph.input.append(helper.make_tensor_value_info(_switch(tap), onnx.TensorProto.BOOL, []))
        after[tensor].append(_rounding(out, tap, tensor, switched, record.taps[tap].scale))
        for reader in index.readers[rounded]:
            for i, name in enumerate(reader.input):
                if name == rounded and reader.op_type not in ROUNDING:
                    nodes[reader.name].input[i] = switched
        for product in record.taps[tap].products:
            if product in corrections and len(nodes[product].input) > 2:
                after[tensor].append(_bias(out, tap, nodes[product], corrections[product]))
    kept = [made for value in out.graph.input for made in after[value.name]]
    for node in out.graph.node:
        kept += [node, *(made for name in node.output for made in after[name])]
    set_nodes(out, kept)
    return out


def _rounding(model: onnx.ModelProto, tap: str, tensor: str, switched: str, step: float) -> onnx.NodeProto:
    """Return an If node, whose branch costs nothing if not taken."""
    put_constant(model, _ZERO, np.array(0, np.int8))
    scale = put_constant(model, f"{tap}.switch.scale", np.array(step, np.float32))
    branches = {
        "on": [
            helper.make_node("QuantizeLinear", [tensor, scale, _ZERO], [f"{tap}.on.integers"]),
            helper.make_node("DequantizeLinear", [f"{tap}.on.integers", scale, _ZERO], [f"{tap}.on"]),
        ],
        "off": [helper.make_node("Identity", [tensor], [f"{tap}.off"])],
    }
    on, off = (
        helper.make_graph(
            made, side, [], [helper.make_tensor_value_info(f"{tap}.{side}", onnx.TensorProto.FLOAT, None)]
        )
        for side, made in branches.items()
    )
    return helper.make_node("If", [_switch(tap)], [switched], then_branch=on, else_branch=off)


def _bias(model: onnx.ModelProto, tap: str, conv: onnx.NodeProto, correction: F64) -> onnx.NodeProto:
    corrected = conv.input[2]
    bias = (constant(model, corrected) - correction).astype(np.float32)
    plain = put_constant(model, f"{conv.name}.switch.bias", bias)
    conv.input[2] = f"{conv.name}.switched.bias"
    return helper.make_node("Where", [_switch(tap), corrected, plain], [conv.input[2]])
