"""A thin builder of ONNX graphs: every node is named after the tensor that it gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from bpudeploy.restructure.weights import Linear

OPSET = 11
IR_VERSION = 7
PIXELS = "pixels"
LOGITS = "logits"


class GraphBuilder:
    """Collects nodes and constants in order; ``model`` checks and returns them.

    ``keep_float`` collects the nodes that stand inside a norm: INT8 has too little range for a square.
    """

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._keep_float: list[str] = []

    @property
    def keep_float(self) -> tuple[str, ...]:
        """Names of the nodes that a quantizer must leave in float."""
        return tuple(self._keep_float)

    def node(
        self, op: str, name: str, inputs: Sequence[str], *, keep_float: bool = False, **attributes: int | list[int]
    ) -> str:
        """Append a node with one output and return that output's name, which is ``name``."""
        from onnx import helper

        self._nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        if keep_float:
            self._keep_float.append(name)
        return name

    def constant(self, name: str, value: NDArray[np.float64]) -> str:
        """Store ``value`` as float32 and return its name."""
        from onnx import numpy_helper

        return self._store(name, numpy_helper.from_array(value.astype("float32"), name))

    def integers(self, name: str, values: Sequence[int]) -> str:
        """Store a vector of int64 (a shape, or where a slice starts) and return its name."""
        from onnx import TensorProto, helper

        return self._store(name, helper.make_tensor(name, TensorProto.INT64, [len(values)], list(values)))

    def scalar(self, name: str, value: float) -> str:
        """Store a float32 of rank 0, shared by all who ask for the same name."""
        from onnx import TensorProto, helper

        return self._store(name, helper.make_tensor(name, TensorProto.FLOAT, [], [value]))

    def _store(self, name: str, tensor: onnx.TensorProto) -> str:
        self._constants.setdefault(name, tensor)
        return name

    def conv(self, name: str, x: str, linear: Linear, *, kernel: tuple[int, int] = (1, 1), group: int = 1) -> str:
        """Append a Conv with stride = kernel and no padding; a bias that is zero everywhere is left out.

        ``linear.weight`` is (out, in/group · kernel height · kernel width).
        """
        out = linear.weight.shape[0]
        weight = self.constant(f"{name}.weight", linear.weight.reshape(out, -1, *kernel))
        inputs = [x, weight]
        if linear.bias.any():
            inputs.append(self.constant(f"{name}.bias", linear.bias))
        return self.node("Conv", name, inputs, kernel_shape=list(kernel), strides=list(kernel), group=group)

    def reshape(self, name: str, x: str, shape: Sequence[int]) -> str:
        """Append a Reshape to a static shape."""
        return self.node("Reshape", name, [x, self.integers(f"shape.{'x'.join(map(str, shape))}", shape)])

    def columns(self, name: str, x: str, start: int, stop: int) -> str:
        """Append a Slice of the token axis, [start, stop)."""
        bounds = [self.integers(f"index.{value}", [value]) for value in (start, stop, 3)]
        return self.node("Slice", name, [x, *bounds])

    def model(self, image: tuple[int, int], output: str, shape: Sequence[int]) -> onnx.ModelProto:
        """Return the checked model: input ``pixels`` float32 (1, 3, H, W), output ``logits`` of ``shape``."""
        import onnx
        from onnx import TensorProto, helper

        self._nodes[-1].output[0] = LOGITS
        if self._nodes[-1].name != output:
            raise ValueError(f"{output} is not the last node")
        graph = helper.make_graph(
            self._nodes,
            "bpudeploy",
            [helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, [1, 3, *image])],
            [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, list(shape))],
            list(self._constants.values()),
        )
        opset = helper.make_opsetid("", OPSET)
        model: onnx.ModelProto = helper.make_model(
            graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="bpudeploy"
        )
        onnx.checker.check_model(model, full_check=True)
        return model
