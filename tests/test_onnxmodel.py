"""What several packages read from an ONNX model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bpudeploy import onnxmodel


def model() -> onnx.ModelProto:
    """A Conv whose weight is listed as an input too, and a sum of its output with itself."""
    weight = np.arange(24, dtype=np.float32).reshape(8, 3, 1, 1)
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Conv", ["x", "w"], ["y"], name="/a/a.0/Conv", group=1, pads=[0, 0, 0, 0]),
                helper.make_node("Add", ["y", "y"], ["z"], name="/a/Add"),
            ],
            "graph",
            [
                helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 4, 4]),
                helper.make_tensor_value_info("w", TensorProto.FLOAT, [8, 3, 1, 1]),
            ],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 8, 4, 4])],
            [numpy_helper.from_array(weight, "w")],
        ),
        opset_imports=[helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("", 11)],
    )


def test_a_copy_shares_nothing() -> None:
    given = model()
    copy = onnxmodel.copy_model(given)
    assert copy == given
    copy.graph.node[0].name = "other"
    assert given.graph.node[0].name == "/a/a.0/Conv"


def test_weights_are_constants_not_inputs() -> None:
    graph = model().graph
    assert [value.name for value in onnxmodel.inputs_of(graph)] == ["x"]
    assert {name: array.shape for name, array in onnxmodel.constants_of(graph).items()} == {"w": (8, 3, 1, 1)}


def test_an_unknown_dimension_is_zero() -> None:
    shapes = {"x": (0, 3, 4, 4), "w": (8, 3, 1, 1), "z": (1, 8, 4, 4)}
    assert onnxmodel.shapes_of(model().graph) == shapes


def test_opset_is_that_of_the_standard_operators() -> None:
    given = model()
    assert onnxmodel.opset_of(given) == 11
    del given.opset_import[:]
    assert onnxmodel.opset_of(given) == 1


def test_attributes_have_defaults() -> None:
    conv = model().graph.node[0]
    assert onnxmodel.attributes_of(conv) == {"group": 1, "pads": [0, 0, 0, 0]}
    assert (onnxmodel.attribute(conv, "group", 2), onnxmodel.attribute(conv, "strides", [1, 1])) == (1, [1, 1])


def test_a_node_reads_a_tensor_once_per_input() -> None:
    readers = onnxmodel.readers_of(model().graph.node, lambda node: node.input)
    assert {name: [node.op_type for node in nodes] for name, nodes in readers.items()} == {
        "x": ["Conv"],
        "w": ["Conv"],
        "y": ["Add", "Add"],
    }


def test_a_node_is_computed_alone() -> None:
    given, x = model(), np.ones((1, 3, 2, 2), np.float32)
    constants = onnxmodel.constants_of(given.graph)
    alone = onnxmodel.node_model(given.graph.node[0], {"x": x.dtype}, given.opset_import, constants)
    (made,) = map(np.asarray, ReferenceEvaluator(alone).run(None, {"x": x}))
    assert np.array_equal(made[0, :, 0, 0], constants["w"].sum(axis=(1, 2, 3)))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("/blocks/blocks.0/attn/qkv/MatMul", "blocks.0.attn.qkv"),
        ("/patch_embed/proj/Conv", "patch_embed.proj"),
        ("/Add", "Add"),
        ("blocks.0.attn.qkv", "blocks.0.attn.qkv"),
        ("/", ""),
        ("", ""),
    ],
)
def test_a_module_path_is_read_from_the_name(name: str, path: str) -> None:
    assert onnxmodel.module_path(name) == path


def test_metadata_is_replaced_by_key_and_otherwise_kept() -> None:
    given = model()
    for key, value in (("a", "1"), ("b", "2"), ("a", "3")):
        onnxmodel.set_metadata(given, key, value)
    assert [(e.key, e.value) for e in given.metadata_props] == [("b", "2"), ("a", "3")]
    assert onnxmodel.metadata_of(given) == {"b": "2", "a": "3"}
