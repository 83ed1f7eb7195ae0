"""Windows, rotary embeddings and rolls of real transformers are lowered to few nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from tests.restructure.graphs import network, noise, ops, rewritten_exactly

N = helper.make_node
SHAPE = (1, 8, 12, 12)


def partition(name: str, made: str) -> list[Any]:
    """Return the nodes from NHWC to windows of 16 tokens, (9, 16, 8)."""
    return [
        N("Reshape", [name, "split"], [f"{name}.split"]),
        N("Transpose", [f"{name}.split"], [f"{name}.turned"], perm=[0, 1, 3, 2, 4, 5]),
        N("Reshape", [f"{name}.turned", "windows"], [made]),
    ]


CONSTANTS = {
    "split": np.array([1, 3, 4, 3, 4, 8]),
    "windows": np.array([9, 16, 8]),
    "w": noise(8, 24, seed=1, scale=0.3),
}


def test_windows_are_moved_once_before_q_k_and_v() -> None:
    nodes = [N("Transpose", ["x"], ["h"], perm=[0, 2, 3, 1]), *partition("h", "t"), N("MatMul", ["t", "w"], ["qkv"])]
    nodes += [N("Split", ["qkv"], ["q", "k", "v"], axis=2), N("Transpose", ["k"], ["kt"], perm=[0, 2, 1])]
    nodes += [N("MatMul", ["q", "kt"], ["l"]), N("Softmax", ["l"], ["a"], axis=-1), N("MatMul", ["a", "v"], ["y"])]
    made = rewritten_exactly(network(nodes, CONSTANTS, SHAPE), noise(*SHAPE))
    assert ops(made).count("Conv") == 3 and ops(made).count("Transpose") <= 5


def test_a_reshape_across_adjacent_axes_moves_nothing() -> None:
    """Adjacent axes (3·4) are split as (6·2): patch merging after window attention."""
    nodes = [N("Reshape", ["x", "a"], ["r"]), N("Relu", ["r"], ["s"]), N("Reshape", ["s", "b"], ["m"])]
    nodes += [N("Transpose", ["m"], ["t"], perm=[0, 2, 4, 1, 3, 5]), N("Reshape", ["t", "c"], ["y"])]
    constants = {"a": np.array([1, 8, 3, 4, 3, 4]), "b": np.array([1, 8, 6, 2, 6, 2]), "c": np.array([36, 8, 4])}
    made = rewritten_exactly(network(nodes, constants, SHAPE), noise(*SHAPE))
    assert ops(made)[0] == "Relu", "nothing is moved before it"


def test_the_rotation_of_a_rotary_embedding_is_one_grouped_convolution() -> None:
    """rot(x) = (-x₁, x₀, -x₃, x₂, ...) within each head of four channels."""
    index = {f"i{k}": np.array([k]) for k in (0, 1, 2, 3, 9)}
    nodes = [
        N("Reshape", ["x", "heads"], ["h"]),  # 1, 2 heads, 4 channels, 144 tokens
        N("Transpose", ["h"], ["t"], perm=[0, 1, 3, 2]),
        N("Slice", ["t", "i1", "i9", "i3", "i2"], ["odd"]),
        N("Slice", ["t", "i0", "i9", "i3", "i2"], ["even"]),
        N("Neg", ["odd"], ["minus"]),
        N("Unsqueeze", ["minus", "last"], ["a"]),
        N("Unsqueeze", ["even", "last"], ["b"]),
        N("Concat", ["a", "b"], ["pairs"], axis=-1),
        N("Reshape", ["pairs", "back"], ["rot"]),
        N("Mul", ["t", "cos"], ["tc"]),
        N("Mul", ["rot", "sin"], ["rs"]),
        N("Add", ["tc", "rs"], ["y"]),
    ]
    constants = {
        **index,
        "heads": np.array([1, 2, 4, 144]),
        "last": np.array([-1]),
        "back": np.array([1, 2, 144, 4]),
        "cos": noise(144, 4, seed=2),
        "sin": noise(144, 4, seed=3),
    }
    made = rewritten_exactly(network(nodes, constants, SHAPE), noise(*SHAPE))
    (conv,) = (n for n in made.model.graph.node if n.op_type == "Conv")
    assert next(a.i for a in conv.attribute if a.name == "group") == 4, "each pair of channels is a group"
    assert not {"Slice", "Concat"} & set(ops(made))


def test_a_roll_is_two_slices_and_a_concat() -> None:
    nodes = [N("Slice", ["x", "a", "z", "axis"], ["u"]), N("Slice", ["x", "o", "a", "axis"], ["v"])]
    nodes += [N("Concat", ["u", "v"], ["y"], axis=2)]
    constants = {"a": np.array([5]), "z": np.array([99]), "o": np.array([0]), "axis": np.array([2])}
    made = rewritten_exactly(network(nodes, constants, SHAPE), noise(*SHAPE))
    assert sorted(ops(made)) == ["Concat", "Slice", "Slice"]


def test_an_assigned_block_becomes_a_mask_and_a_pad() -> None:
    indices = np.stack(np.meshgrid([0], np.arange(8), [3, 4, 5], indexing="ij"), -1)
    nodes = [
        N("Slice", ["x", "a", "b", "axis"], ["u"]),
        N("Relu", ["u"], ["v"]),
        N("ScatterND", ["x", "i", "v"], ["y"]),
    ]
    constants = {"a": np.array([0]), "b": np.array([3]), "axis": np.array([2]), "i": indices}
    made = rewritten_exactly(network(nodes, constants, SHAPE), noise(*SHAPE))
    assert {"Mul", "Pad", "Add"} <= set(ops(made))


def test_a_constant_condition_selects_its_branch() -> None:
    """torch exports a squeeze of unknown size as an If on the shape."""
    import onnx
    from onnx import TensorProto

    def branch(op: str) -> Any:
        out = helper.make_tensor_value_info(f"{op}.out", TensorProto.FLOAT, None)
        return helper.make_graph([N(op, ["x"], [f"{op}.out"])], op, [], [out])

    nodes = [
        N("Shape", ["x"], ["s"]),
        N("Gather", ["s", "i"], ["n"], axis=0),
        N("Equal", ["n", "eight"], ["c"]),
        N("If", ["c"], ["r"], then_branch=branch("Relu"), else_branch=branch("Neg")),
        N("Tanh", ["r"], ["y"]),
    ]
    model = network(nodes, {"i": np.array(1), "eight": np.array(8)}, SHAPE)
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model))
    assert ops(rewritten_exactly(model, noise(*SHAPE))) == ["Relu", "Tanh"]
