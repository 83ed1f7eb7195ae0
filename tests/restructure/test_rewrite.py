"""The rewrite is exact, 4-D, and caught when it is not: each fold alone, then whole networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bpudeploy.errors import StageError
from bpudeploy.restructure import folds
from bpudeploy.restructure.forms import faults
from bpudeploy.restructure.proof import Reference, infer, prove
from bpudeploy.restructure.read_vit import read_vit
from bpudeploy.restructure.record import GraphRecord, count_nodes
from bpudeploy.restructure.vit import Rewritten, rewrite
from bpudeploy.restructure.weights import Linear, Norm

if TYPE_CHECKING:
    from tests.restructure.conftest import MakeVit

VITS: list[tuple[str, dict[str, Any]]] = [
    ("test_vit", {"img_size": 64, "num_classes": 5}),
    ("test_vit2", {"img_size": 64, "num_classes": 5}),
    ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2, "num_classes": 5}),
    ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2, "num_classes": 5, "qkv_bias": False}),
    ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2, "num_classes": 5, "init_values": 0.1}),
    ("deit_tiny_patch16_224", {"img_size": 32, "depth": 2, "num_classes": 5}),
    ("vit_small_patch14_dinov2", {"img_size": 28, "depth": 2, "num_classes": 5}),
    ("vit_small_patch14_reg4_dinov2", {"img_size": 28, "depth": 2, "num_classes": 0}),
]


def linear(rng: np.random.Generator, rows: int, columns: int) -> Linear:
    return Linear(rng.standard_normal((rows, columns)), rng.standard_normal(rows))


def apply(layer: Linear, x: Any) -> Any:
    return layer.weight @ x + layer.bias[:, None]


def layer_norm(x: Any, norm: Norm) -> Any:
    centred = x - x.mean(axis=0)
    normed = centred / np.sqrt((centred**2).mean(axis=0) + norm.eps)
    return norm.gamma[:, None] * normed + norm.beta[:, None]


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("seed", range(5))
class TestFolds:
    """float64: equal to rounding."""

    def test_centre_makes_a_mean_square_of_the_variance(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        writer, x = linear(rng, 8, 6), rng.standard_normal((6, 4))
        stream = apply(writer, x)
        centred = apply(folds.centre(writer), x)
        np.testing.assert_allclose(centred, stream - stream.mean(axis=0), atol=1e-13)
        np.testing.assert_allclose((centred**2).mean(axis=0), stream.var(axis=0), atol=1e-13)
        np.testing.assert_allclose(folds.centre_tokens(stream), centred, atol=1e-13)

    def test_absorb_norm(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        reader, x = linear(rng, 5, 8), rng.standard_normal((8, 4))
        norm = Norm(rng.standard_normal(8), rng.standard_normal(8), 1e-6)
        plain = layer_norm(x, Norm(np.ones(8), np.zeros(8), 1e-6))
        np.testing.assert_allclose(apply(folds.absorb_norm(reader, norm), plain), apply(reader, layer_norm(x, norm)))

    def test_scale_rows(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        layer, x, s = linear(rng, 5, 8), rng.standard_normal((8, 4)), rng.standard_normal(5)
        np.testing.assert_allclose(apply(folds.scale_rows(layer, s), x), s[:, None] * apply(layer, x))
        np.testing.assert_allclose(apply(folds.scale_rows(layer, 0.5), x), 0.5 * apply(layer, x))

    def test_the_key_s_bias_does_nothing(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        q, k, x = linear(rng, 6, 8), linear(rng, 6, 8), rng.standard_normal((8, 4))
        with_bias = softmax(apply(q, x).T @ apply(k, x))
        np.testing.assert_allclose(softmax(apply(q, x).T @ apply(folds.drop_key_bias(k), x)), with_bias, atol=1e-12)

    def test_the_value_s_bias_moves_behind_the_attention(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        v, proj, x = linear(rng, 6, 8), linear(rng, 8, 6), rng.standard_normal((8, 4))
        weights = softmax(rng.standard_normal((4, 4)))
        moved_v, moved = folds.move_value_bias(v, proj)
        np.testing.assert_allclose(apply(moved, apply(moved_v, x) @ weights.T), apply(proj, apply(v, x) @ weights.T))


def reference(model: Any, images: int = 3) -> Reference:
    size = model.patch_embed.img_size
    pixels = np.random.default_rng(1).standard_normal((images, 3, *size)).astype(np.float32)
    return Reference(model, np.concatenate([infer(model, p[None]) for p in pixels]), lambda i: pixels[i : i + 1])


@pytest.mark.parametrize(("name", "options"), VITS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(VITS)])
def test_whole_networks_are_equal_and_4d(make_vit: MakeVit, name: str, options: dict[str, Any]) -> None:
    model = make_vit(name, **options)
    rewritten = rewrite(read_vit(model))
    assert faults(rewritten.model) == []
    assert rewritten.model.opset_import[0].version == 11
    nodes = count_nodes(rewritten.model)
    assert not {"Gemm", "LayerNormalization", "ReduceMean"} & set(nodes) and nodes["Conv"] > 0
    proof, logits = prove(rewritten, reference(model), tolerance=1e-5)
    assert proof.max_relative_difference <= 1e-5 and proof.top1_equal == 3 and logits.shape[0] == 3


def test_the_same_weights_give_the_same_bytes(make_vit: MakeVit) -> None:
    model = make_vit("test_vit", img_size=64, num_classes=5)
    first, second = (rewrite(read_vit(model)).model.SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def disturbed(rewritten: Rewritten, part: str) -> Rewritten:
    """Return a copy with one weight below ``part`` changed."""
    import onnx
    from onnx import numpy_helper

    model = onnx.ModelProto()
    model.CopyFrom(rewritten.model)
    used = [name for n in model.graph.node for name in n.input]
    convs = [n for n in model.graph.node if n.op_type == "Conv" and n.name.startswith(part)]
    node = next(n for n in convs if used.count(n.input[1]) == 1)  # the norms share their averaging weights
    tensor = next(t for t in model.graph.initializer if t.name == node.input[1])
    weights = numpy_helper.to_array(tensor).copy()
    weights.flat[0] += 0.5
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    return Rewritten(model, rewritten.taps, rewritten.keep_float)


@pytest.mark.parametrize(
    ("part", "named"),
    [("embed", "patch_embed"), ("blocks.0.", "blocks.0"), ("blocks.1.mlp", "blocks.1"), ("head", "the head")],
)
def test_a_disturbed_weight_fails_the_proof_and_its_place_is_named(make_vit: MakeVit, part: str, named: str) -> None:
    model = make_vit("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5)
    broken = disturbed(rewrite(read_vit(model)), part)
    with pytest.raises(StageError, match=f"the first that differs is {named}"):
        prove(broken, reference(model), tolerance=1e-5)


def test_a_part_that_is_not_understood_is_refused_by_name(make_vit: MakeVit) -> None:
    with pytest.raises(StageError, match="global_pool"):
        read_vit(make_vit("test_vit3", img_size=64))


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_what_is_not_understood_is_refused_by_name(make_vit: MakeVit, name: str) -> None:
    with pytest.raises(StageError, match="no rewrite for timm"):
        read_vit(make_vit(name))


def test_a_linear_and_a_gemm_are_faults() -> None:
    import onnx
    from onnx import helper

    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="fc")
    x, w, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2, 2]) for n in "xwy")
    model = helper.make_model(helper.make_graph([node], "g", [x, w], [y]), opset_imports=[helper.make_opsetid("", 11)])
    assert any("Gemm" in fault for fault in faults(model))


def test_the_record_travels_in_the_file(make_vit: MakeVit) -> None:
    model = make_vit("test_vit", img_size=64, num_classes=5)
    rewritten = rewrite(read_vit(model))
    proof, _ = prove(rewritten, reference(model), tolerance=1e-5)
    record = GraphRecord(
        proof=proof, nodes=count_nodes(rewritten.model), taps=rewritten.taps, keep_float=rewritten.keep_float
    )
    record.write(rewritten.model)
    assert GraphRecord.read(rewritten.model) == record
