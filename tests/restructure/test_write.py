"""The file written tensor by tensor is the same message that onnx writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpudeploy.restructure.write import _varint, save


@given(st.integers(0, 2**62))
def test_varints_are_read_by_protobuf(number: int) -> None:
    import onnx

    message = onnx.ModelProto()
    message.ParseFromString(b"\x08" + _varint(number))  # ir_version is field 1
    assert message.ir_version == number


@pytest.mark.parametrize("weights", [0, 1, 5])
def test_the_file_contains_the_same_message(tmp_path: Path, weights: int) -> None:
    import onnx
    from onnx import helper, numpy_helper

    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 300])
    tensors = [numpy_helper.from_array(np.full((1, 300), i, np.float32), f"w{i}") for i in range(weights)]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="y")], "g", [value], [], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    model.metadata_props.add(key="k", value="v")
    before = model.SerializeToString(deterministic=True)
    save(model, tmp_path / "m.onnx")
    assert onnx.load(tmp_path / "m.onnx").SerializeToString(deterministic=True) == before
