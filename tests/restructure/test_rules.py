"""Each rule alone: it applies where it should and only there, and keeps the network's outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import helper

from bpudeploy.host import open_session
from bpudeploy.restructure.fuse_patterns import fuse_patterns
from bpudeploy.restructure.graph import Graph
from bpudeploy.restructure.lower.dispatch import lower
from bpudeploy.restructure.network import read_network
from bpudeploy.restructure.rewrite import RULES, rewrite
from bpudeploy.restructure.write import to_onnx
from tests.restructure.graphs import network, noise, ops, original, ours

N = helper.make_node
SHAPE = (1, 8, 4, 4)
RULE: dict[str, Callable[[Graph], int]] = dict(RULES)
CONV = N("Conv", ["x", "w", "b"], ["c"])
NORM = N("LayerNormalization", ["t", "g", "h"], ["n"])
TO_TOKENS = [N("Reshape", ["c", "s"], ["r"]), N("Transpose", ["r"], ["t"], perm=[0, 2, 1])]

WITH_CLASS = [TO_TOKENS[0], N("Transpose", ["r"], ["t0"], perm=[0, 2, 1]), N("Concat", ["cls", "t0"], ["t"], axis=1)]


def constants(**more: Any) -> dict[str, Any]:
    return {
        "w": noise(8, 8, 1, 1),
        "b": noise(8, seed=1),
        "s": np.array([1, 8, 16]),
        "g": noise(8, seed=2),
        "h": noise(8, seed=3),
        "head": noise(8, 5, seed=4),
        **more,
    }


def applied(rule: str, model: Any) -> tuple[int, Graph]:
    """Apply one of the rewrite's rules to the lowered ``model``, check its outputs, and return count and graph."""
    x = noise(*SHAPE, seed=9)
    graph = lower(fuse_patterns(read_network(model)))
    RULE["dead"](graph)
    count = RULE[rule](graph)
    RULE["dead"](graph)
    outputs = list(graph.outputs)
    made = to_onnx(graph)
    session = open_session(made.SerializeToString())
    answers = session.run(None, {"pixels": x})
    for output, array, expected in zip(outputs, answers, original(model, x), strict=True):
        np.testing.assert_allclose(output.read(array), expected, atol=2e-6 * np.abs(expected).max())
    return count, graph


def attention(*, bias: bool = True, scale: float | None = None, talking: bool = False) -> Any:
    """Return x -> one head of attention over 16 tokens -> projection."""
    nodes = [CONV, *TO_TOKENS]
    made = constants(proj=noise(8, 8, seed=5), pb=noise(8, seed=6))
    for i, name in enumerate("qkv"):
        made[f"w{name}"], made[f"b{name}"] = noise(8, 8, seed=10 + i, scale=0.3), noise(8, seed=20 + i)
        nodes.append(N("MatMul", ["t", f"w{name}"], [f"{name}0"]))
        nodes.append(N("Add", [f"{name}0", f"b{name}"], [name]) if bias else N("Identity", [f"{name}0"], [name]))
    nodes += [N("Transpose", ["k"], ["kt"], perm=[0, 2, 1]), N("MatMul", ["q", "kt"], ["l0"])]
    if scale is not None:
        made["scale"] = np.float32(scale)
        nodes.append(N("Mul", ["l0", "scale"], ["l"]))
    else:
        nodes.append(N("Identity", ["l0"], ["l"]))
    nodes += [N("Softmax", ["l"], ["a0"], axis=-1)]
    made["two"] = np.float32(2)
    nodes += [N("Mul", ["a0", "two"], ["a"]) if talking else N("Identity", ["a0"], ["a"])]
    nodes += [N("MatMul", ["a", "v"], ["o"]), N("MatMul", ["o", "proj"], ["p"]), N("Add", ["p", "pb"], ["y"])]
    return network(nodes, made, SHAPE)


class TestCentre:
    def test_the_mean_is_folded_into_linear_producers(self) -> None:
        nodes = [CONV, *TO_TOKENS, NORM, N("MatMul", ["n", "m"], ["u"]), N("Add", ["t", "u"], ["t2"])]
        nodes += [N("LayerNormalization", ["t2", "g"], ["n2"]), N("MatMul", ["n2", "head"], ["y"])]
        count, graph = applied("centre", network(nodes, constants(m=noise(8, 8, seed=7)), SHAPE))
        assert count == 2 and not [n for n in graph.nodes.values() if n.op == "Sub"]

    def test_a_reader_that_needs_the_mean_prevents_folding(self) -> None:
        nodes = [
            CONV,
            *TO_TOKENS,
            NORM,
            N("MatMul", ["n", "head"], ["u"]),
            N("MatMul", ["t", "head"], ["z"]),
            N("Add", ["u", "z"], ["y"]),
        ]
        count, _ = applied("centre", network(nodes, constants(), SHAPE))
        assert count == 0

    def test_an_output_is_never_changed(self) -> None:
        nodes = [CONV, *TO_TOKENS, NORM, N("MatMul", ["n", "head"], ["y"])]
        count, _ = applied("centre", network(nodes, constants(), SHAPE, outputs=("y", "t")))
        assert count == 0

    def test_a_nonlinear_producer_read_by_two_norms_is_centred_once(self) -> None:
        nodes = [
            CONV,
            N("Relu", ["c"], ["a"]),
            N("Reshape", ["a", "s"], ["r"]),
            N("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
        ]
        nodes += [NORM, N("MatMul", ["n", "m"], ["u"]), N("Add", ["t", "u"], ["t2"])]
        nodes += [N("LayerNormalization", ["t2", "g"], ["n2"]), N("MatMul", ["n2", "head"], ["y"])]
        count, graph = applied("centre", network(nodes, constants(m=noise(8, 8, seed=7)), SHAPE))
        assert count == 2 and len([n for n in graph.nodes.values() if n.op == "Sub"]) == 1

    def test_a_stream_continues_through_moves_slices_and_constants(self) -> None:
        nodes = [CONV, *TO_TOKENS, N("Concat", ["cls", "t"], ["t1"], axis=1), N("Add", ["t1", "pos"], ["t2"])]
        nodes += [
            N("LayerNormalization", ["t2", "g", "h"], ["n"]),
            N("Slice", ["n", "z", "one", "one"], ["f"]),
            N("MatMul", ["f", "head"], ["y"]),
        ]
        made = constants(cls=noise(1, 1, 8), pos=noise(1, 17, 8), z=np.array([0]), one=np.array([1]))
        count, graph = applied("centre", network(nodes, made, SHAPE))
        assert count == 1 and not [n for n in graph.nodes.values() if n.op == "Sub"]


class TestBiases:
    def test_key_biases_are_dropped(self) -> None:
        count, graph = applied("key biases", attention())
        assert count == 1 and sum(len(n.inputs) == 2 for n in graph.nodes.values() if n.op == "Conv") == 1

    def test_value_biases_move_into_the_projection(self) -> None:
        assert applied("value biases", attention())[0] == 1

    def test_value_biases_stay_if_rows_do_not_sum_to_one(self) -> None:
        assert applied("value biases", attention(talking=True))[0] == 0

    def test_key_biases_stay_in_attention_over_channels(self) -> None:
        """Each column is another channel of the key, so the bias does not cancel (DaViT)."""
        nodes = [CONV, *TO_TOKENS, N("MatMul", ["t", "wk"], ["k0"]), N("Add", ["k0", "b"], ["k"])]
        nodes += [N("Transpose", ["t"], ["tt"], perm=[0, 2, 1]), N("MatMul", ["tt", "k"], ["l"])]
        nodes += [N("Softmax", ["l"], ["a"], axis=-1), N("MatMul", ["t", "a"], ["y"])]
        count, _ = applied("key biases", network(nodes, constants(wk=noise(8, 8, seed=7, scale=0.1)), SHAPE))
        assert count == 0

    def test_attention_without_biases(self) -> None:
        assert applied("key biases", attention(bias=False))[0] == 0
        assert applied("value biases", attention(bias=False))[0] == 0


def test_a_scale_of_the_scores_is_folded_into_the_queries() -> None:
    count, graph = applied("scale", attention(scale=0.25))
    assert count == 1 and not [n for n in graph.nodes.values() if n.op == "Mul"]


def test_a_slice_moves_before_the_norm_and_the_mlp() -> None:
    nodes = [
        CONV,
        *WITH_CLASS,
        NORM,
        N("MatMul", ["n", "m"], ["u"]),
        N("Relu", ["u"], ["v"]),
        N("Add", ["t", "v"], ["t2"]),
    ]
    nodes += [N("Gather", ["t2", "first"], ["f"], axis=1), N("MatMul", ["f", "head"], ["y"])]
    count, graph = applied(
        "narrow", network(nodes, constants(cls=noise(1, 1, 8), m=noise(8, 8, seed=7), first=np.array(0)), SHAPE)
    )
    assert count >= 5
    assert all(n.shape[3] == 1 for n in graph.nodes.values() if n.op in ("Relu", "Sqrt", "Mul"))


def test_the_range_outside_two_slices_is_removed() -> None:
    nodes = [
        CONV,
        *WITH_CLASS,
        NORM,
        N("Gather", ["n", "i0"], ["a0"], axis=1),
        N("Gather", ["n", "i2"], ["a2"], axis=1),
    ]
    nodes += [N("Add", ["a0", "a2"], ["c2"]), N("MatMul", ["c2", "head"], ["y"])]
    count, graph = applied(
        "narrow", network(nodes, constants(cls=noise(1, 1, 8), i0=np.array(0), i2=np.array(2)), SHAPE)
    )
    assert count and {n.shape[3] for n in graph.nodes.values() if n.op == "Sqrt"} == {3}


def test_positions_are_folded_into_class_tokens() -> None:
    nodes = [
        CONV,
        *TO_TOKENS,
        N("Concat", ["cls", "t"], ["t1"], axis=1),
        N("Add", ["t1", "pos"], ["t2"]),
        N("MatMul", ["t2", "head"], ["y"]),
    ]
    count, graph = applied("tokens", network(nodes, constants(cls=noise(1, 1, 8), pos=noise(1, 17, 8)), SHAPE))
    assert count == 1
    (add,) = (n for n in graph.nodes.values() if n.op == "Add")
    assert add.shape[3] == 16, "the position of the class token is folded"


def test_equal_nodes_and_consecutive_moves_are_merged() -> None:
    nodes = [CONV, N("Relu", ["c"], ["a0"]), N("Relu", ["c"], ["a1"]), N("Add", ["a0", "a1"], ["y"])]
    assert applied("share", network(nodes, constants(), SHAPE))[0] == 1
    nodes = [CONV, N("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]), N("MatMul", ["t", "head"], ["y"])]
    graph = applied("moves", network(nodes, constants(), SHAPE))[1]
    assert sum(n.op == "Move" for n in graph.nodes.values()) == 1, "only the output layout remains"


def test_nodes_from_a_square_to_its_root_stay_in_float() -> None:
    nodes = [
        N("Mul", ["x", "x"], ["q"]),
        N("ReduceMean", ["q"], ["m"], axes=[1]),
        N("Add", ["m", "e"], ["v"]),
        N("Sqrt", ["v"], ["r"]),
        N("Div", ["x", "r"], ["y"]),
    ]
    count, graph = applied("protect", network(nodes, {"e": np.float32(1e-6)}, SHAPE))
    assert count and {n.op for n in graph.nodes.values() if n.keep_float} >= {"Mul", "Conv", "Sqrt"}


NORM_PARTS = [
    N("ReduceMean", ["t"], ["m"], axes=[-1]),
    N("Sub", ["t", "m"], ["d"]),
    N("Pow", ["d", "p2"], ["q"]),
    N("ReduceMean", ["q"], ["v"], axes=[-1]),
    N("Add", ["v", "e"], ["ve"]),
    N("Sqrt", ["ve"], ["sd"]),
    N("Div", ["d", "sd"], ["n0"]),
    N("Mul", ["n0", "g"], ["n1"]),
    N("Add", ["n1", "h"], ["n"]),
]


def test_a_decomposed_layer_norm_is_fused_and_centred() -> None:
    nodes = [CONV, *TO_TOKENS, *NORM_PARTS, N("MatMul", ["n", "head"], ["y"])]
    model = network(nodes, constants(p2=np.float32(2), e=np.float32(1e-6)), SHAPE, opset=11)
    found = [o.op for o in fuse_patterns(read_network(model)).operations]
    assert found.count("LayerNormalization") == 1 and "ReduceMean" not in found
    made = rewrite(read_network(model))
    x = noise(*SHAPE)
    np.testing.assert_allclose(ours(made, x)[0], original(model, x)[0], atol=1e-5)
    assert "Sub" not in ops(made)


@pytest.mark.parametrize(
    "parts",
    [
        [N("Mul", ["x", "one_e"], ["p"]), N("Mul", ["p", "half"], ["y"])],
        [N("Mul", ["x", "half"], ["p"]), N("Mul", ["p", "one_e"], ["y"])],
        [N("Mul", ["half", "one_e"], ["p"]), N("Mul", ["p", "x"], ["y"])],
    ],
)
def test_a_decomposed_gelu_is_fused_and_written_in_the_order_of_vendor_compilers(parts: list[Any]) -> None:
    nodes = [N("Div", ["x", "root"], ["d"]), N("Erf", ["d"], ["e"]), N("Add", ["e", "one"], ["one_e"]), *parts]
    model = network(nodes, {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}, SHAPE)
    assert [o.op for o in fuse_patterns(read_network(model)).operations] == ["Gelu"]
    made = rewrite(read_network(model))
    assert ops(made) == ["Div", "Erf", "Add", "Mul", "Mul"]
    x = noise(*SHAPE)
    np.testing.assert_allclose(ours(made, x)[0], original(model, x)[0], atol=1e-6)


def test_a_gelu_whose_parts_have_other_readers_is_not_fused() -> None:
    nodes = [
        N("Div", ["x", "root"], ["d"]),
        N("Erf", ["d"], ["e"]),
        N("Add", ["e", "one"], ["o"]),
        N("Mul", ["x", "o"], ["p"]),
        N("Mul", ["p", "half"], ["g"]),
        N("Add", ["g", "e"], ["y"]),
    ]
    model = network(nodes, {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}, SHAPE)
    assert "Gelu" not in [o.op for o in fuse_patterns(read_network(model)).operations]
