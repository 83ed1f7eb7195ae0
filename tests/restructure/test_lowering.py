"""Each operator is lowered to 4-D, and equals the original in onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from bpudeploy.errors import StageError
from bpudeploy.restructure.network import read_network
from bpudeploy.restructure.rewrite import rewrite
from tests.restructure.graphs import network, noise, ops, rewritten_exactly

N = helper.make_node
IMAGE = (1, 6, 4, 4)
TOKENS = [N("Reshape", ["x", "tokens"], ["r"]), N("Transpose", ["r"], ["t"], perm=[0, 2, 1])]
"""(1, 6, 4, 4) to tokens (1, 16, 6)."""
TOKENS_SHAPE = {"tokens": np.array([1, 6, 16])}


def integers(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


ELEMENTWISE: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "unary": ([N("Tanh", ["x"], ["y"])], {}),
    "hardswish": ([N("HardSwish", ["x"], ["y"])], {}),
    "mish": ([N("Softplus", ["x"], ["s"]), N("Tanh", ["s"], ["u"]), N("Mul", ["x", "u"], ["y"])], {}),
    "negative": ([N("Neg", ["x"], ["y"])], {}),
    "clip": ([N("Clip", ["x", "a", "b"], ["y"])], {"a": np.float32(-0.5), "b": np.float32(0.5)}),
    "clip above": ([N("Clip", ["x", "", "b"], ["y"])], {"b": np.float32(0.5)}),
    "square": ([N("Pow", ["x", "a"], ["y"])], {"a": np.float32(2)}),
    "cube": ([N("Pow", ["x", "a"], ["y"])], {"a": np.float32(3)}),
    "constant minus": ([N("Sub", ["a", "x"], ["y"])], {"a": noise(1, 6, 1, 1)}),
    "constant over": ([N("Exp", ["x"], ["e"]), N("Div", ["a", "e"], ["y"])], {"a": noise(6, 1, 1)}),
    "per row": ([N("Mul", ["x", "a"], ["y"])], {"a": noise(4, 1)}),
    "by constant larger than the value": (
        [N("GlobalAveragePool", ["x"], ["g"]), N("Add", ["g", "a"], ["y"])],
        {"a": noise(1, 6, 4, 4)},
    ),
    "outer": (
        [N("ReduceMean", ["x"], ["a"], axes=[2]), N("ReduceMean", ["x"], ["b"], axes=[3]), N("Add", ["a", "b"], ["y"])],
        {},
    ),
    "gate": ([N("GlobalAveragePool", ["x"], ["g"]), N("Sigmoid", ["g"], ["s"]), N("Mul", ["x", "s"], ["y"])], {}),
    "with its transpose": ([N("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]), N("Add", ["x", "t"], ["y"])], {}),
    "masked": ([N("Where", ["m", "x", "a"], ["y"])], {"m": noise(4, 4) > 0, "a": np.float32(-2)}),
    "maximum": ([N("Max", ["x", "a"], ["y"])], {"a": np.float32(0.1)}),
}
VIEWS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "reshape that cuts across": ([N("Reshape", ["x", "s"], ["r"]), N("Tanh", ["r"], ["y"])], {"s": integers(1, 16, 6)}),
    "squeeze and unsqueeze": (
        [
            N("ReduceMean", ["x"], ["m"], axes=[2], keepdims=0),
            N("Unsqueeze", ["m", "a"], ["u"]),
            N("Add", ["u", "x"], ["y"]),
        ],
        {"a": integers(2)},
    ),
    "expand": ([N("GlobalAveragePool", ["x"], ["g"]), N("Expand", ["g", "s"], ["y"])], {"s": integers(1, 6, 4, 4)}),
    "tile": ([N("Tile", ["x", "s"], ["y"])], {"s": integers(1, 2, 1, 1)}),
    "depth to space": ([N("Concat", ["x", "x"], ["c"], axis=1), N("DepthToSpace", ["c"], ["y"], blocksize=2)], {}),
    "space to depth": ([N("SpaceToDepth", ["x"], ["y"], blocksize=2)], {}),
    "five axes": (
        [
            N("Reshape", ["x", "s"], ["r"]),
            N("Transpose", ["r"], ["t"], perm=[0, 3, 1, 4, 2]),
            N("Reshape", ["t", "u"], ["y"]),
        ],
        {"s": integers(1, 6, 4, 2, 2), "u": integers(1, 12, 8)},
    ),
    "channel shuffle": (
        [
            N("Reshape", ["x", "s"], ["r"]),
            N("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3, 4]),
            N("Reshape", ["t", "u"], ["y"]),
        ],
        {"s": integers(1, 2, 3, 4, 4), "u": integers(1, 6, 4, 4)},
    ),
}
SELECTIONS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "slice": (
        [N("Slice", ["x", "a", "b", "c", "d"], ["y"])],
        {"a": integers(1), "b": integers(9), "c": integers(2), "d": integers(2)},
    ),
    "flip": (
        [N("Slice", ["x", "a", "b", "c", "d"], ["y"])],
        {"a": integers(-1), "b": integers(-99), "c": integers(3), "d": integers(-1)},
    ),
    "split": (
        [N("Split", ["x", "s"], ["a", "b"], axis=1), N("Tanh", ["a"], ["u"]), N("Concat", ["b", "u"], ["y"], axis=1)],
        {"s": integers(2, 4)},
    ),
    "gather": ([N("Gather", ["x", "i"], ["y"], axis=1)], {"i": integers(5, 0, 3)}),
    "gather one": ([N("Gather", ["x", "i"], ["g"], axis=2), N("Tanh", ["g"], ["y"])], {"i": np.array(1)}),
    "inner slice": (
        [N("Reshape", ["x", "s"], ["r"]), N("Slice", ["r", "a", "b", "c"], ["y"])],
        {"s": integers(1, 2, 3, 16), "a": integers(1), "b": integers(3), "c": integers(2)},
    ),
    "stack": (
        [N("Unsqueeze", ["x", "a"], ["u"]), N("Concat", ["u", "u"], ["c"], axis=1), N("Reshape", ["c", "s"], ["y"])],
        {"a": integers(1), "s": integers(1, 12, 4, 4)},
    ),
    "concat of a constant": ([N("Concat", ["k", "x"], ["y"], axis=2)], {"k": noise(1, 6, 1, 4)}),
}
SPATIAL: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "conv": (
        [N("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2])],
        {"w": noise(5, 6, 3, 3), "b": noise(5)},
    ),
    "conv same": ([N("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER", strides=[2, 2])], {"w": noise(5, 6, 3, 3)}),
    "depthwise": (
        [N("Conv", ["x", "w"], ["y"], group=6, dilations=[2, 2], pads=[2, 2, 2, 2])],
        {"w": noise(6, 1, 3, 3)},
    ),
    "conv 1-D": (
        [N("Reshape", ["x", "s"], ["r"]), N("Conv", ["r", "w"], ["y"], pads=[1, 1])],
        {"s": integers(1, 6, 16), "w": noise(5, 6, 3)},
    ),
    "transposed conv": ([N("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])], {"w": noise(6, 5, 2, 2)}),
    "max pool": ([N("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], {}),
    "average pool": ([N("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)], {}),
    "resize": ([N("Resize", ["x", "", "f"], ["y"], mode="linear")], {"f": np.array([1, 1, 2, 2], np.float32)}),
    "pad": ([N("Pad", ["x", "p"], ["y"], mode="reflect")], {"p": integers(0, 0, 1, 1, 0, 0, 2, 1)}),
    "no pad": ([N("Pad", ["x", "p"], ["q"]), N("Tanh", ["q"], ["y"])], {"p": integers(*[0] * 8)}),
}
LINEAR: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "linear": ([*TOKENS, N("MatMul", ["t", "w"], ["y"])], {**TOKENS_SHAPE, "w": noise(6, 5)}),
    "from the left": ([N("MatMul", ["w", "x"], ["y"])], {"w": noise(5, 4)}),
    "over tokens": (
        [N("Reshape", ["x", "tokens"], ["r"]), N("MatMul", ["r", "w"], ["y"])],
        {**TOKENS_SHAPE, "w": noise(16, 5)},
    ),
    "one for each head": ([N("MatMul", ["x", "w"], ["y"])], {"w": noise(6, 4, 3)}),
    "gemm": (
        [N("Flatten", ["x"], ["f"]), N("Gemm", ["f", "w", "b"], ["y"], transB=1, alpha=0.5)],
        {"w": noise(5, 96), "b": noise(5)},
    ),
    "einsum linear": (
        [*TOKENS, N("Einsum", ["t", "w"], ["y"], equation="bnc,chd->bhnd")],
        {**TOKENS_SHAPE, "w": noise(6, 2, 3)},
    ),
    "einsum attention": ([*TOKENS, N("Einsum", ["t", "t"], ["y"], equation="bnc,bmc->bnm")], TOKENS_SHAPE),
    "product": ([*TOKENS, N("MatMul", ["t", "r"], ["y"])], TOKENS_SHAPE),
    "product that broadcasts": ([N("ReduceMean", ["x"], ["m"], axes=[1]), N("MatMul", ["x", "m"], ["y"])], {}),
}
REDUCTIONS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    **{
        f"{op} {axes}": ([N(op, ["x"], ["y"], axes=axes, keepdims=keep)], {})
        for op, axes, keep in [
            ("ReduceMean", [1], 1),
            ("ReduceMean", [2, 3], 0),
            ("ReduceMean", [3], 1),
            ("ReduceMean", [1, 2, 3], 1),
            ("ReduceL2", [1], 1),
            ("ReduceMax", [1], 1),
            ("ReduceMax", [2, 3], 0),
        ]
    },
    "sum": ([N("ReduceSum", ["x", "a"], ["y"])], {"a": integers(1)}),
    "mean per head": (
        [N("Reshape", ["x", "s"], ["r"]), N("ReduceMean", ["r"], ["y"], axes=[2])],
        {"s": integers(1, 2, 3, 16)},
    ),
    "softmax": ([*TOKENS, N("Softmax", ["t"], ["y"], axis=-1)], TOKENS_SHAPE),
    "softmax over channels": ([N("Softmax", ["x"], ["y"], axis=1)], {}),
    "log softmax": ([N("Flatten", ["x"], ["f"]), N("LogSoftmax", ["f"], ["y"], axis=1)], {}),
    "layer norm": (
        [*TOKENS, N("LayerNormalization", ["t", "g", "b"], ["y"], epsilon=1e-6)],
        {**TOKENS_SHAPE, "g": noise(6), "b": noise(6)},
    ),
    "layer norm of an image": ([N("LayerNormalization", ["x", "g"], ["y"], axis=1)], {"g": noise(6, 4, 4)}),
    "norm per head": (
        [
            N("Reshape", ["x", "s"], ["r"]),
            N("Transpose", ["r"], ["t"], perm=[0, 1, 3, 2]),
            N("LayerNormalization", ["t", "g"], ["y"]),
        ],
        {"s": integers(1, 2, 3, 16), "g": noise(3)},
    ),
    "instance norm": ([N("InstanceNormalization", ["x", "g", "b"], ["y"])], {"g": noise(6), "b": noise(6)}),
    "group norm": (
        [
            N("Reshape", ["x", "s"], ["r"]),
            N("InstanceNormalization", ["r", "g", "b"], ["n"]),
            N("Reshape", ["n", "u"], ["y"]),
        ],
        {"s": integers(1, 2, -1), "g": noise(2), "b": noise(2), "u": integers(1, 6, 4, 4)},
    ),
    "batch norm": (
        [N("BatchNormalization", ["x", "g", "b", "m", "v"], ["y"])],
        {"g": noise(6), "b": noise(6), "m": noise(6), "v": noise(6) ** 2 + 0.5},
    ),
}
CASES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    **ELEMENTWISE,
    **VIEWS,
    **SELECTIONS,
    **SPATIAL,
    **LINEAR,
    **REDUCTIONS,
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch", [1, 2])
def test_lowered_operators_are_equal(name: str, batch: int) -> None:
    nodes, constants = CASES[name]
    if batch == 2:
        constants = {k: batched(v, k) for k, v in constants.items()}
    rewritten_exactly(network(nodes, constants, (batch, *IMAGE[1:])), noise(batch, *IMAGE[1:]))


def batched(value: Any, name: str) -> Any:
    """Return a shape with batch 2, class tokens for two images, and other constants unchanged."""
    if name == "k":
        return np.concatenate([value, value])
    if (
        name in ("tokens", "s", "u")
        and len(value) > 2
        and value[0] == 1
        and (name != "s" or len(value) != 4 or value[1] != 2 or value[3] == 16)
    ):
        return np.concatenate([[2], value[1:]])
    return value


@pytest.mark.parametrize("opset", [9, 11, 13, 17])
def test_older_opsets(opset: int) -> None:
    """Before 13, Softmax is over all axes from its axis on; older Slice, Pad, Clip have attributes."""
    nodes = [N("Conv", ["x", "w"], ["c"]), N("Softmax", ["c"], ["y"], axis=1)]
    model = network(nodes, {"w": noise(5, 6, 1, 1)}, IMAGE, opset=opset)
    if opset == 9:
        nodes = [
            N("Slice", ["x"], ["s"], starts=[1], ends=[4], axes=[1]),
            N("Pad", ["s"], ["p"], pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5),
            N("Clip", ["p"], ["y"], min=-1.0, max=1.0),
        ]
        model = network(nodes, {}, IMAGE, opset=9)
    assert model.opset_import[0].version == opset
    rewritten_exactly(model, noise(*IMAGE))


def test_an_nhwc_input_becomes_nchw() -> None:
    nodes = [N("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), N("Conv", ["t", "w"], ["y"])]
    x = noise(1, 8, 8, 3)
    made = rewritten_exactly(network(nodes, {"w": noise(5, 3, 3, 3)}, x.shape), x, fed=x.transpose(0, 3, 1, 2).copy())
    assert ops(made) == ["Conv"]


def test_limits_of_a_clip_are_scalars() -> None:
    """The operator wants them so: the vendor's onnxruntime refuses limits with an axis, a newer one does not."""
    limits = {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    model = network([helper.make_node("Clip", ["x", "low", "high"], ["y"])], limits, (1, 3, 4, 4))
    graph = rewrite(read_network(model)).model.graph
    (clip,) = (node for node in graph.node if node.op_type == "Clip")
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    assert [shapes[name] for name in clip.input[1:]] == [(), ()]


def test_read_network_does_not_copy_weights() -> None:
    from bpudeploy.restructure.network import read_network as read

    weight = noise(6, 5)
    model = network([*TOKENS, N("MatMul", ["t", "w"], ["y"])], {**TOKENS_SHAPE, "w": weight}, IMAGE)
    model.graph.initializer.pop()
    from onnx import TensorProto

    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [6, 5]))
    assert np.shares_memory(read(model, {"w": weight}).constants["w"], weight)


@pytest.mark.parametrize(
    ("nodes", "constants", "message"),
    [
        ([N("TopK", ["x", "k"], ["y", "i"])], {"k": integers(2)}, "depends on the image's content"),
        ([N("NonZero", ["x"], ["z"]), N("Cast", ["z"], ["y"], to=1)], {}, "depends on the image's content"),
        ([N("Einsum", ["x", "x"], ["y"], equation="bchw,bcij->bhwi")], {}, "equation"),
        ([N("Det", ["x"], ["y"])], {}, "not supported"),
        (
            [N("Reshape", ["x", "s"], ["r"]), N("Conv", ["r", "w"], ["y"])],
            {"s": integers(1, 6, 2, 2, 4), "w": noise(2, 6, 1, 1, 1)},
            "rank 5",
        ),
    ],
)
def test_an_operation_without_4d_form_is_an_error_with_a_hint(nodes: Any, constants: Any, message: str) -> None:
    with pytest.raises(StageError, match=message) as caught:
        rewrite(read_network(network(nodes, constants, IMAGE)))
    assert caught.value.hint
    if "image" in message:
        assert "restructure.approximate" in caught.value.hint


def test_a_data_dependent_gather_is_an_error_that_names_the_static_alternative() -> None:
    nodes = [
        N("ReduceMean", ["x"], ["m"], axes=[1, 2, 3], keepdims=0),
        N("Cast", ["m"], ["i"], to=7),
        N("Gather", ["x", "i"], ["y"], axis=1),
    ]
    with pytest.raises(StageError, match="depends on the image") as caught:
        rewrite(read_network(network(nodes, {}, IMAGE)))
    assert "reduce_tokens" in (caught.value.hint or "")


def test_dynamic_shapes_and_foreign_domains_are_errors() -> None:
    with pytest.raises(StageError, match="not fixed"):
        read_network(network([N("Tanh", ["x"], ["y"])], {}, ("n", 3, 4, 4)))
    model = network([N("Tanh", ["x"], ["y"])], {}, IMAGE)
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(StageError, match="not standard ONNX"):
        read_network(model)
