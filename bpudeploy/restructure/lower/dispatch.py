"""Lower a network: dispatch each operation to the function for its operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bpudeploy.errors import StageError
from bpudeploy.restructure.atoms import Dims, flat, new_axis, sizes
from bpudeploy.restructure.constants import evaluate
from bpudeploy.restructure.graph import MOVE, UNARY, Graph, Node
from bpudeploy.restructure.lower import concat, elementwise, linear, matmul, reduce, select, spatial, views
from bpudeploy.restructure.lower.context import Lowering, tensor_view
from bpudeploy.restructure.lower.einsum import einsum
from bpudeploy.restructure.lower.scatter import scatter
from bpudeploy.restructure.network import Network, Operation, read_operations
from bpudeploy.restructure.value import Value

RULES: dict[str, Callable[[Lowering], None]] = {
    **dict.fromkeys(UNARY, elementwise.unary),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "PRelu"), elementwise.binary),
    **dict.fromkeys(("Sum", "Min", "Max", "Mean"), elementwise.several),
    **dict.fromkeys(("Identity", "Dropout", "Cast", "CastLike"), views.same),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), spatial.pool),
    **dict.fromkeys(("Resize", "Upsample"), spatial.resize),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2"), reduce.reduce),
    **dict.fromkeys(("ReduceMax", "ReduceMin", "GlobalAveragePool", "GlobalMaxPool"), reduce.reduce),
    **dict.fromkeys(("Softmax", "LogSoftmax"), reduce.softmax),
    "BatchNormalization": reduce.batch_norm,
    "Clip": elementwise.clip,
    "Concat": concat.concat,
    "Conv": spatial.conv,
    "ConvTranspose": spatial.conv_transpose,
    "DepthToSpace": views.depth_to_space,
    "Einsum": einsum,
    "Expand": views.expand,
    "Flatten": views.flatten,
    "Gather": select.gather,
    "Gelu": elementwise.gelu,
    "Gemm": linear.gemm,
    "GroupNormalization": reduce.group_norm,
    "HardSwish": elementwise.hard_swish,
    "InstanceNormalization": reduce.instance_norm,
    "LayerNormalization": reduce.layer_norm,
    "MatMul": matmul.matmul,
    "Mish": elementwise.mish,
    "Neg": elementwise.negate,
    "Pad": spatial.pad,
    "Pow": elementwise.power,
    "Reshape": views.reshape,
    "ScatterND": scatter,
    "Slice": select.slice_,
    "SpaceToDepth": views.space_to_depth,
    "Split": select.split,
    "Squeeze": views.squeeze,
    "Tile": views.tile,
    "Transpose": views.transpose,
    "Unsqueeze": views.unsqueeze,
    "Where": elementwise.where,
}
CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
DATA_DEPENDENT = (
    CONTROL_FLOW
    | {"NonZero", "TopK", "Unique", "Compress", "NonMaxSuppression", "ArgMax", "ArgMin", "OneHot", "Range"}
    | {"GatherElements", "GatherND", "ScatterElements", "SequenceAt", "SequenceInsert", "SplitToSequence"}
    | {"RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
"""Operators whose result or shape depends on the image's content, or is random: a BPU runs one static network."""
PIXELS = "pixels"


def lower(network: Network) -> Graph:
    """Return the 4-D graph that computes what ``network`` computes.

    Raises:
        StageError: an operation has no 4-D form; the message names it and the reason.
    """
    if not network.operations:
        raise StageError("the model has no operations", hint="export a network")
    ctx = Lowering(network)
    _add_input(ctx)
    for operation in network.operations:
        _lower_or_fold(ctx, operation)
    _add_outputs(ctx)
    return ctx.graph


def _lower_or_fold(ctx: Lowering, operation: Operation) -> None:
    """Lower one operation, or evaluate it if its inputs are constants."""
    ctx.node = operation
    inputs = [ctx.constants.get(n) if n else None for n in operation.inputs]
    if operation.op == "Shape":
        shape = ctx.value().shape if inputs[0] is None else list(inputs[0].shape)
        part = slice(operation.attributes.get("start", 0), operation.attributes.get("end"))
        ctx.constants[operation.outputs[0]] = np.array(shape[part], np.int64)
    elif operation.op == "If" and inputs[0] is not None:
        _lower_branch(ctx, operation, bool(np.asarray(inputs[0]).reshape(())))
    elif operation.op not in CONTROL_FLOW and all(n in ctx.constants for n in operation.inputs if n):
        for name, array in zip(operation.outputs, evaluate(operation, inputs, ctx.network.opset), strict=False):
            ctx.constants[name] = np.asarray(array)
    else:
        _lower_operation(ctx)


def _lower_branch(ctx: Lowering, operation: Operation, condition: bool) -> None:
    """Lower the branch that a constant condition selects, as exporters write for alternative shapes."""
    graph = operation.attributes["then_branch" if condition else "else_branch"]
    operations, constants = read_operations(graph)
    ctx.constants |= constants
    for inner in operations:
        _lower_or_fold(ctx, inner)
    for name, inside in zip(operation.outputs, graph.output, strict=True):
        if inside.name in ctx.constants:
            ctx.constants[name] = ctx.constants[inside.name]
        else:
            ctx.values[name] = replace(ctx.values[inside.name], producer=None)


def _lower_operation(ctx: Lowering) -> None:
    op = ctx.node.op
    if op in DATA_DEPENDENT:
        raise ctx.unsupported(
            "it depends on the image's content (adaptive tokens, early exit, top-k), and a BPU runs one static network",
            "use a static alternative: restructure.approximate.drop_blocks, prune_heads or reduce_tokens",
        )
    rule = RULES.get(op)
    if rule is None:
        raise ctx.unsupported(
            "the operator is not supported", "export the model with standard operators, or report this one"
        )
    rule(ctx)


def _add_input(ctx: Lowering) -> None:
    """Add the image input; the physical layout is (N, C, H, W) even if the model takes (N, H, W, C)."""
    inputs = ctx.network.inputs
    if len(inputs) != 1 or len(next(iter(inputs.values()))) != 4:
        raise StageError(
            f"the model takes {', '.join(f'{n} {list(s)}' for n, s in inputs.items()) or 'nothing'}",
            hint="export a model with one image input, (N, C, H, W) or (N, H, W, C)",
        )
    ((name, shape),) = inputs.items()
    axes = tuple(new_axis(n) for n in shape)
    channels_last = shape[3] in (1, 3) and shape[1] not in (1, 3)
    dims: Dims = (axes[0], axes[3], axes[1], axes[2]) if channels_last else axes
    ctx.graph.inputs[PIXELS] = tuple(sizes(dims))
    ctx.values[name] = Value(PIXELS, dims, axes)


def _add_outputs(ctx: Lowering) -> None:
    """Add each output: images as (N, C, H, W), tokens as (N, C, 1, T), scores as (N, C, 1, 1)."""
    for name in ctx.network.outputs:
        if name in ctx.constants:
            raise StageError(f"output {name!r} is a constant", hint="export outputs that depend on the image")
        value = ctx.materialize(ctx.values[name])
        axes = value.axes
        target: Dims = ((), (), (), flat(axes))
        match len(axes):
            case 4:
                target = axes
            case 3:
                target = (axes[0], axes[2], (), axes[1])
            case 2:
                target = (axes[0], axes[1], (), ())
        value = ctx.relayout(value, target)
        if value.name not in ctx.graph.nodes:
            copy = Node(MOVE, ctx.name("output"), [value.name], tuple(sizes(target)), {}, target, target)
            value = replace(value, name=ctx.graph.add(copy))
        ctx.graph.outputs.append(tensor_view(value))
