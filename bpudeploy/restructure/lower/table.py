"""Which function lowers which operator, and the walk over a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bpudeploy.errors import StageError
from bpudeploy.restructure.atoms import Dims, flat, new_axis, sizes
from bpudeploy.restructure.constants import evaluate
from bpudeploy.restructure.graph import MOVE, UNARY, Graph, Node
from bpudeploy.restructure.imported import Network, Operation, read_graph
from bpudeploy.restructure.lower import elementwise, join, linear, matmul, reduce, select, spatial, views
from bpudeploy.restructure.lower.context import Lowering, reading
from bpudeploy.restructure.lower.einsum import einsum
from bpudeploy.restructure.lower.scatter import scatter
from bpudeploy.restructure.value import Value

RULES: dict[str, Callable[[Lowering], None]] = {
    **dict.fromkeys(UNARY, elementwise.unary),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "PRelu"), elementwise.binary),
    **dict.fromkeys(("Sum", "Min", "Max", "Mean"), elementwise.several),
    **dict.fromkeys(("Identity", "Dropout", "Cast", "CastLike"), views.same),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), spatial.pool),
    **dict.fromkeys(("Resize", "Upsample"), spatial.resize),
    **dict.fromkeys(
        [
            "ReduceMean",
            "ReduceSum",
            "ReduceSumSquare",
            "ReduceL1",
            "ReduceL2",
            "ReduceMax",
            "ReduceMin",
            "GlobalAveragePool",
            "GlobalMaxPool",
        ],
        reduce.reduce,
    ),
    **dict.fromkeys(("Softmax", "LogSoftmax"), reduce.softmax),
    "BatchNormalization": reduce.batch_norm,
    "Clip": elementwise.clip,
    "Concat": join.concat,
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
CONTROL = frozenset({"If", "Loop", "Scan"})
DATA_DEPENDENT = CONTROL | frozenset(
    [
        "NonZero",
        "TopK",
        "Unique",
        "Compress",
        "NonMaxSuppression",
        "GatherElements",
        "GatherND",
        "ScatterElements",
        "ArgMax",
        "ArgMin",
        "OneHot",
        "Range",
        "SequenceAt",
        "SequenceInsert",
        "SplitToSequence",
        "RandomNormalLike",
        "RandomUniformLike",
        "Bernoulli",
        "Multinomial",
    ]
)
"""Operators that choose by the image's content, or at random: a BPU runs one fixed network."""
PIXELS = "pixels"


def lower(network: Network) -> Graph:
    """Return the 4-D graph that computes what ``network`` computes.

    Raises:
        StageError: naming the operation that has no 4-D form, and why.
    """
    if not network.operations:
        raise StageError("the model has no operations", hint="export a network")
    ctx = Lowering(network)
    _feed(ctx)
    for operation in network.operations:
        _step(ctx, operation)
    _give(ctx)
    return ctx.graph


def _step(ctx: Lowering, operation: Operation) -> None:
    """Lower one operation, or compute it if it is a constant."""
    ctx.at = operation
    given = [ctx.constants.get(n) if n else None for n in operation.inputs]
    if operation.op == "Shape":
        shape = ctx.value().shape if given[0] is None else list(given[0].shape)
        part = slice(operation.attributes.get("start", 0), operation.attributes.get("end"))
        ctx.constants[operation.outputs[0]] = np.array(shape[part], np.int64)
    elif operation.op == "If" and given[0] is not None:
        _branch(ctx, operation, bool(np.asarray(given[0]).reshape(())))
    elif operation.op not in CONTROL and all(n in ctx.constants for n in operation.inputs if n):
        for name, array in zip(operation.outputs, evaluate(operation, given, ctx.network.opset), strict=False):
            ctx.constants[name] = np.asarray(array)
    else:
        _lower_one(ctx)


def _branch(ctx: Lowering, operation: Operation, condition: bool) -> None:
    """Lower the branch that a known condition takes: exporters write shapes' alternatives so."""
    graph = operation.attributes["then_branch" if condition else "else_branch"]
    operations, constants = read_graph(graph)
    ctx.constants |= constants
    for inner in operations:
        _step(ctx, inner)
    for name, inside in zip(operation.outputs, graph.output, strict=True):
        if inside.name in ctx.constants:
            ctx.constants[name] = ctx.constants[inside.name]
        else:
            ctx.values[name] = replace(ctx.values[inside.name], maker=None)


def _lower_one(ctx: Lowering) -> None:
    op = ctx.at.op
    if op in DATA_DEPENDENT:
        raise ctx.refuse(
            "it depends on what is in the image (adaptive tokens, early exit, top-k), and a BPU runs one fixed network",
            "use a static alternative: restructure.approximate.drop_blocks, prune_heads or reduce_tokens",
        )
    rule = RULES.get(op)
    if rule is None:
        raise ctx.refuse("the operator is not known", "export the model with standard operators, or report this one")
    rule(ctx)


def _feed(ctx: Lowering) -> None:
    """Take the one image input; images that come as (N, H, W, 3) are stored as (N, 3, H, W) all the same."""
    inputs = ctx.network.inputs
    if len(inputs) != 1 or len(next(iter(inputs.values()))) != 4:
        raise StageError(
            f"the model takes {', '.join(f'{n} {list(s)}' for n, s in inputs.items()) or 'nothing'}",
            hint="one input of images, (N, C, H, W) or (N, H, W, C), is what a board is fed",
        )
    ((name, shape),) = inputs.items()
    axes = tuple(new_axis(n) for n in shape)
    last = shape[3] in (1, 3) and shape[1] not in (1, 3)
    dims: Dims = (axes[0], axes[3], axes[1], axes[2]) if last else (axes[0], axes[1], axes[2], axes[3])
    ctx.graph.inputs[PIXELS] = tuple(sizes(dims))
    ctx.values[name] = Value(PIXELS, dims, axes)


def _give(ctx: Lowering) -> None:
    """Bring each output into its own form: (N, C, H, W) as it is, tokens as (N, C, 1, N), scores as (N, C, 1, 1)."""
    for name in ctx.network.outputs:
        if name in ctx.constants:
            raise StageError(f"output {name!r} is a constant", hint="export outputs that depend on the image")
        value = ctx.fill(ctx.values[name])
        axes = value.axes
        target: Dims = ((), (), (), flat(axes))
        match len(axes):
            case 4:
                target = (axes[0], axes[1], axes[2], axes[3])
            case 3:
                target = (axes[0], axes[2], (), axes[1])
            case 2:
                target = (axes[0], axes[1], (), ())
        value = ctx.relayout(value, target)
        if value.name not in ctx.graph.nodes:
            made = ctx.graph.add(Node(MOVE, ctx.name("output"), [value.name], tuple(sizes(target)), {}, target, target))
            value = replace(value, name=made)
        ctx.graph.outputs.append(reading(value))
