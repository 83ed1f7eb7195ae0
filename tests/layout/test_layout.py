"""A graph laid out for an accelerator computes what it computed before, and wastes less of the accelerator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from bpudeploy.host import open_session
from bpudeploy.layout.lay_out import lay_out
from bpudeploy.layout.rows import shape_of_rows
from bpudeploy.restructure.bpu_form import form_errors
from bpudeploy.restructure.edit import editable_graph
from bpudeploy.restructure.export import network_of_module
from bpudeploy.restructure.rewrite import rewrite
from bpudeploy.restructure.write import to_onnx
from bpudeploy.spec.layout import LayoutFacts
from bpudeploy.stages.timm_models import reparameterized
from tests.restructure.test_families import FAMILIES, TOLERANCE, MakeModel, shape_of

X5 = LayoutFacts(rows=4, columns=8, reshape_columns=128, stride=2, keys=4)
APART = X5.model_copy(update={"heads_together": 1})
"""Every head of every attention alone."""
TRANSFORMERS = [
    pair for pair in FAMILIES if not pair[0].startswith(("resnet", "mobilenetv3", "efficientnet", "repvgg"))
]


def laid_out(model: Any, facts: LayoutFacts) -> tuple[Any, dict[str, int]]:
    """Return a copy of a model laid out for ``facts``, and what was changed."""
    graph = editable_graph(model)
    changes = lay_out(graph, facts)
    return to_onnx(graph), changes


def outputs(model: Any, image: Any) -> list[Any]:
    session = open_session(model.SerializeToString())
    found: list[Any] = session.run(None, {session.get_inputs()[0].name: image})
    return found


@pytest.mark.parametrize("facts", [X5, APART], ids=["heads together", "one head at a time"])
@pytest.mark.parametrize(("name", "options"), TRANSFORMERS, ids=[name for name, _ in TRANSFORMERS])
def test_every_family_computes_what_it_did(
    make_model: MakeModel, name: str, options: dict[str, Any], facts: LayoutFacts
) -> None:
    model = make_model(name, **options)
    shape = shape_of(model)
    exact = rewrite(network_of_module(reparameterized(model), shape)).model
    made, _ = laid_out(exact, facts)
    assert form_errors(made) == []
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for before, after in zip(outputs(exact, image), outputs(made, image), strict=True):
        assert before.shape == after.shape
        assert np.abs(before - after).max() < TOLERANCE.get(name, 1e-5) * np.ptp(before)


def test_a_vit_has_its_tokens_in_rows_and_its_heads_on_axis_0(make_model: MakeModel) -> None:
    model = make_model("vit_tiny_patch16_224", img_size=64, depth=3)
    exact = rewrite(network_of_module(model, shape_of(model))).model
    made, changes = laid_out(exact, X5)
    assert changes["patches"] == 1 and changes["heads"] == 3 and changes["rows"] > 50
    nodes = {node.name: node for node in made.graph.node}
    strides = [a.ints for n in made.graph.node if n.op_type == "Conv" for a in n.attribute if a.name == "strides"]
    assert max(max(s) for s in strides) == 2
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred(made).value_info}
    assert shapes["blocks.1.mlp.fc1.2"] == [1, 768, 3, 6], "17 tokens, padded to 4 rows and 8 columns"
    products = [shapes[n.output[0]] for n in nodes.values() if n.op_type == "MatMul"][:2]
    assert products == [[3, 3, 6, 20], [3, 3, 6, 64]], (
        "3 heads; the queries in rows, 17 keys and 3 of no weight, 64 channels"
    )


def inferred(model: Any) -> Any:
    from onnx import shape_inference

    return shape_inference.infer_shapes(model).graph


@given(st.integers(1, 400), st.integers(1, 8), st.integers(1, 16))
def test_no_other_shape_of_the_rows_occupies_less(tokens: int, rows: int, columns: int) -> None:
    facts = LayoutFacts(rows=rows, columns=columns)
    height, width = shape_of_rows(tokens, facts)
    assert height * width >= tokens
    others = [(h, w) for h in range(1, tokens + 1) for w in (-(-tokens // h), -(-tokens // h) + 1)]
    assert facts.area(height, width) == min(facts.area(*shape) for shape in others)


@pytest.mark.parametrize(("keys", "padded"), [(1, 17), (4, 20), (8, 24), (64, None)])
def test_keys_are_padded_to_a_multiple(keys: int, padded: int | None, make_model: MakeModel) -> None:
    """An attention with fewer keys than would be added stays as it is: 17 have no 47 to repeat."""
    model = make_model("vit_tiny_patch16_224", img_size=64, depth=2)
    exact = rewrite(network_of_module(model, shape_of(model))).model
    made, changes = laid_out(exact, LayoutFacts(rows=4, columns=8, stride=2, keys=keys))
    assert changes["heads"] == (2 if padded else 0)
    found = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred(made).value_info}
    assert padded is None or {shape[1] for name, shape in found.items() if name.endswith("softmax.exp")} == {padded}
    image = np.random.default_rng(keys).standard_normal((1, 3, 64, 64)).astype(np.float32)
    (before,), (after,) = outputs(exact, image), outputs(made, image)
    assert np.abs(before - after).max() < 1e-5 * np.ptp(before)


@pytest.mark.parametrize(
    ("side", "stride", "left"),
    [(16, 2, [2, 2]), (16, 4, [4, 4]), (14, 2, [1, 7]), (4, 2, [2, 2]), (2, 2, [2, 2]), (7, 2, [1, 7])],
)
def test_a_patch_convolution_is_cut_in_steps(side: int, stride: int, left: list[int]) -> None:
    rng = np.random.default_rng(side)
    shape = (1, 3, 3 * side, 2 * side)
    weights = {"w": rng.standard_normal((8, 3, side, side)), "b": rng.standard_normal(8)}
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], "y", strides=[side, side], kernel_shape=[side, side])],
        "patches",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8, 3, 2))],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    made, _ = laid_out(model, LayoutFacts(stride=stride))
    last = next(n for n in made.graph.node if n.output[0] == made.graph.output[0].name)
    assert next(list(a.ints) for a in last.attribute if a.name == "kernel_shape") == left
    image = rng.standard_normal(shape).astype(np.float32)
    (before,), (after,) = outputs(model, image), outputs(made, image)
    assert np.abs(before - after).max() < 1e-5 * np.ptp(before)


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, int], tuple[int, int]]:
    """Return images (N, C, H, W), the windows in a column and in a row, and by how much they are rolled."""
    n, channels, rows, columns = (draw(st.integers(1, most)) for most in (2, 3, 3, 3))
    height, width = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    roll = draw(st.integers(0, rows * height - 1)), draw(st.integers(0, columns * width - 1))
    return (n, channels, rows * height, columns * width), (rows, columns), roll


@given(windows(), st.booleans(), st.booleans())
@settings(deadline=None)
def test_windows_are_cut_and_joined_by_slices(
    made: tuple[tuple[int, ...], tuple[int, int], tuple[int, int]], join: bool, in_a_row: bool
) -> None:
    shape, (rows, columns), roll = made
    n, channels, height, width = shape
    size = (height // rows, width // columns)
    cut = (n * rows * columns, channels, *((1, size[0] * size[1]) if in_a_row else size))
    builder = Moves()
    if join:
        tensor = builder.reshape("x", (n * rows, columns, channels * size[0], size[1]))
        tensor = builder.transpose(tensor, (0, 2, 1, 3))  # windows to bands
        tensor = builder.reshape(tensor, (n, rows, channels, size[0] * width))
        tensor = builder.reshape(builder.transpose(tensor, (0, 2, 1, 3)), shape)
        tensor = builder.roll(builder.roll(tensor, 2, roll[0], shape), 3, roll[1], shape)
    else:
        tensor = builder.roll(builder.roll("x", 2, roll[0], shape), 3, roll[1], shape)
        tensor = builder.reshape(tensor, (n, channels, rows, size[0] * width))
        tensor = builder.reshape(
            builder.transpose(tensor, (0, 2, 1, 3)), (n * rows, channels * size[0], columns, size[1])
        )
        tensor = builder.reshape(builder.transpose(tensor, (0, 2, 1, 3)), cut)
    before, after = (cut, shape) if join else (shape, cut)
    result, changes = same_moves(builder.model(tensor, before, after))
    if rows * columns > 1:
        assert changes["windows"] == 1 and "Transpose" not in {node.op_type for node in result.graph.node}


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("end", ["channels first", "pixels first", "axis 0", "axis 0 in a row"])
def test_every_second_pixel_is_moved_by_one_operator(end: str, back: bool) -> None:
    image, (c, h, w), builder = (1, 3, 6, 8), (3, 3, 4), Moves()
    shapes = {"axis 0": (4, c, h, w), "axis 0 in a row": (4, c, 1, h * w)}
    after = shapes.get(end, (1, 4 * c, h, w))
    first = end == "channels first"
    if back:
        tensor = builder.reshape("x", (c, 4, h, w) if first else (4, c, h, w))
        tensor = tensor if first else builder.transpose(tensor, (1, 0, 2, 3))
        tensor = builder.reshape(builder.transpose(tensor, (0, 2, 1, 3)), (c * h, 2, 2, w))
        tensor = builder.reshape(builder.transpose(tensor, (0, 1, 3, 2)), image)
    else:
        tensor = builder.transpose(builder.reshape("x", (c * h, 2, w, 2)), (0, 1, 3, 2))
        tensor = builder.transpose(builder.reshape(tensor, (c, h, 4, w)), (0, 2, 1, 3))
        tensor = tensor if first else builder.transpose(tensor, (1, 0, 2, 3))
        tensor = builder.reshape(tensor, after)
    before, after = (after, image) if back else (image, after)
    made, changes = same_moves(builder.model(tensor, before, after))
    ops = {node.op_type for node in made.graph.node}
    if first and back:  # DepthToSpace has its pixels first
        assert changes["pixels"] == 0
    else:
        assert changes["pixels"] == 1 and "Transpose" not in ops and ("DepthToSpace" if back else "Conv") in ops


@given(st.integers(1, 4), st.integers(2, 5), st.integers(2, 40), st.booleans(), st.booleans())
@settings(deadline=None)
def test_heads_are_split_and_joined_through_the_shape_that_is_padded_least(
    heads: int, channels: int, tokens: int, join: bool, first: bool
) -> None:
    whole, fine, builder = (1, heads * channels, 1, tokens), (heads, channels, tokens, 1), Moves()
    perm = (3, 0, 1, 2) if first else (3, 0, 2, 1)
    split = tuple(fine[axis] for axis in perm)
    before, after = (split, whole) if join else (whole, split)
    if join:
        tensor = builder.reshape(builder.transpose("x", tuple(int(i) for i in np.argsort(perm))), after)
    else:
        tensor = builder.transpose(builder.reshape("x", fine), perm)
    made, changes = same_moves(builder.model(tensor, before, after))
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred(made).value_info]
    assert changes["shapes"] == 1 and not [shape for shape in shapes if len(shape) == 4 and shape[3] == 1]


def same_moves(model: Any) -> tuple[Any, dict[str, int]]:
    """Lay out a graph of moves, which must put every value where it was put before; return what ``laid_out`` does."""
    made, changes = laid_out(model, X5)
    shape = [dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim]
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    (expected,), (found,) = outputs(model, values), outputs(made, values)
    assert np.array_equal(expected, found)
    return made, changes


class Moves:
    """Builds a graph of moves that ends in a Relu."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def reshape(self, tensor: str, shape: tuple[int, ...]) -> str:
        return self._add("Reshape", [tensor, self._ints(shape)])

    def transpose(self, tensor: str, perm: tuple[int, ...]) -> str:
        return self._add("Transpose", [tensor], perm=perm)

    def roll(self, tensor: str, axis: int, start: int, shape: tuple[int, ...]) -> str:
        if not start:
            return tensor
        ends = [
            self._add("Slice", [tensor, self._ints([a]), self._ints([b]), self._ints([axis])])
            for a, b in ((start, shape[axis]), (0, start))
        ]
        return self._add("Concat", ends, axis=axis)

    def model(self, tensor: str, before: tuple[int, ...], after: tuple[int, ...]) -> Any:
        self.nodes.append(helper.make_node("Relu", [tensor], ["y"], "y"))
        values = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("x", before), ("y", after))
        ]
        graph = helper.make_graph(self.nodes, "moves", values[:1], values[1:], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)

    def _add(self, op: str, inputs: list[str], **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def _ints(self, numbers: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
        return name


@pytest.mark.parametrize(("stacked", "together"), [(12, True), (11, False)])
def test_windows_with_many_heads_are_computed_one_head_at_a_time(
    stacked: int, together: bool, make_model: MakeModel
) -> None:
    model = make_model("swin_tiny_patch4_window7_224", img_size=56, depths=(2,), num_heads=(3,))
    exact = rewrite(network_of_module(model, shape_of(model))).model
    made, changes = laid_out(exact, X5.model_copy(update={"most_stacked": stacked}))
    assert changes["windows"] == 4, "each of the two blocks cuts 14 x 14 pixels into 4 windows, and joins them"
    assert sum(node.op_type == "MatMul" for node in made.graph.node) == (4 if together else 12)
    image = np.random.default_rng(0).standard_normal((1, 3, 56, 56)).astype(np.float32)
    (before,), (after,) = outputs(exact, image), outputs(made, image)
    assert np.abs(before - after).max() < 1e-5 * np.ptp(before)


def test_queries_stay_pixels_where_heads_are_on_axis_0_already(make_model: MakeModel) -> None:
    """CoAtNet cuts q, k and v out of each head: its attention was once laid out as (h, T, 1, d), 196 rows of one."""
    model = make_model("coatnet_nano_rw_224")
    made, changes = laid_out(rewrite(network_of_module(model, shape_of(model))).model, X5)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred(made).value_info}
    products = [shapes[node.output[0]] for node in made.graph.node if node.op_type == "MatMul"]
    assert changes["heads"] > 0 and len(products) == 2 * changes["heads"]
    assert {tuple(shape[1:3]) for shape in products} == {(14, 14), (7, 7)}


def test_without_facts_nothing_changes(make_model: MakeModel) -> None:
    model = make_model("vit_tiny_patch16_224", img_size=64, depth=1)
    exact = rewrite(network_of_module(model, shape_of(model))).model
    made, changes = laid_out(exact, LayoutFacts())
    assert not any(changes.values()) and not LayoutFacts().changes_graphs
    assert [n.op_type for n in made.graph.node] == [n.op_type for n in exact.graph.node]
