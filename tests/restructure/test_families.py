"""Every supported model family is rewritten exactly to 4-D and proven; the proof detects differences."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bpudeploy.errors import StageError
from bpudeploy.restructure.bpu_form import form_errors
from bpudeploy.restructure.export import export_whole, network_of_module
from bpudeploy.restructure.proof import Reference, prove, random_input
from bpudeploy.restructure.record import GraphRecord, Proof, count_nodes
from bpudeploy.restructure.rewrite import Rewritten, rewrite
from bpudeploy.stages.originals import np_array
from bpudeploy.stages.timm_models import feature_maps, reparameterized

MakeModel = Callable[..., Any]

FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("vit_tiny_patch16_224", {"img_size": 64, "depth": 2}),
    ("deit_tiny_distilled_patch16_224", {"img_size": 64, "depth": 2}),
    ("deit3_small_patch16_224", {"img_size": 64, "depth": 2}),
    ("vit_small_patch14_reg4_dinov2", {"img_size": 56, "depth": 2, "num_classes": 5}),
    ("vit_base_patch32_clip_224", {"img_size": 64, "depth": 2}),
    ("vit_base_patch16_siglip_224", {"img_size": 64, "depth": 2}),
    ("beit_base_patch16_224", {"img_size": 64, "depth": 2}),
    ("eva02_tiny_patch14_224", {"img_size": 56, "depth": 2}),
    ("cait_xxs24_224", {"img_size": 64, "depth": 2}),
    ("swin_tiny_patch4_window7_224", {"depths": (2, 2)}),
    ("swinv2_tiny_window8_256", {"depths": (2, 2)}),
    ("pvt_v2_b0", {}),
    ("twins_svt_small", {"depths": (1, 1, 1, 1)}),
    ("twins_pcpvt_small", {"depths": (1, 1, 1, 1)}),
    ("levit_128s", {}),
    ("efficientformer_l1", {}),
    ("mobilevit_xxs", {}),
    ("mobilevitv2_050", {}),
    ("fastvit_t8", {}),
    ("poolformer_s12", {}),
    ("maxvit_pico_rw_256", {}),
    ("coatnet_nano_rw_224", {}),
    ("visformer_tiny", {}),
    ("xcit_nano_12_p16_224", {}),
    ("mixer_s32_224", {}),
    ("convnext_atto", {}),
    ("resnet18", {}),
    ("mobilenetv3_small_050", {}),
    ("efficientnet_b0", {}),
    ("repvgg_a0", {}),
]
TOLERANCE = {"visformer_tiny": 3e-5}
"""With these random weights float32 differs from float64 by 5e-6 of the range, in torch too."""
CNNS = ("resnet18", "mobilenetv3_small_050", "efficientnet_b0", "repvgg_a0")


def proven(made: Rewritten, truth: Reference, *, tolerance: float) -> tuple[Proof, list[Any]]:
    """Prove ``made`` from a file, as the stage does."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        onnx.save(made.model, Path(folder) / "graph.onnx")
        return prove(Path(folder) / "graph.onnx", made.tensor_map, truth, tolerance=tolerance)


def reference(model: Any, shape: tuple[int, int, int, int], images: int = 2) -> Reference:
    import torch

    def infer(pixels: Any) -> list[Any]:
        with torch.inference_mode():
            made = model(torch.from_numpy(pixels))
        return [np_array(o) for o in (made if isinstance(made, list | tuple) else [made])]

    pixels = np.random.default_rng(1).standard_normal((images, *shape[1:])).astype(np.float32)
    rows = [infer(pixels[i : i + 1]) for i in range(images)]
    answers = [np.concatenate(outputs) for outputs in zip(*rows, strict=True)]

    return Reference(
        answers, lambda i: pixels[i : i + 1], infer(random_input(shape)), lambda: export_whole(model, shape)
    )


def shape_of(model: Any, batch: int = 1) -> tuple[int, int, int, int]:
    patch = getattr(model, "patch_embed", None)
    size = getattr(patch, "img_size", None) or model.pretrained_cfg["input_size"][1:]
    return (batch, 3, size[0], size[1])


@pytest.mark.parametrize(("name", "options"), FAMILIES, ids=[n for n, _ in FAMILIES])
def test_every_family_is_exact_and_4d(make_model: MakeModel, name: str, options: dict[str, Any]) -> None:
    model = make_model(name, **options)
    shape = shape_of(model)
    truth = reference(model, shape)
    network = network_of_module(reparameterized(model), shape)
    made = rewrite(network)
    assert form_errors(made.model) == [] and made.model.opset_import[0].version == 11
    proof, _ = proven(made, truth, tolerance=TOLERANCE.get(name, 1e-5))
    assert proof.top1_equal == 2
    if name in CNNS:
        before = [o.op for o in network.operations]
        after = count_nodes(made.model)
        assert sum(after.values()) <= len(before) and after["Conv"] <= before.count("Conv") + before.count("Gemm")
        assert not {"Transpose", "Reshape"} & set(after), "a CNN has no layout changes"


def test_a_plain_vit_has_no_means_no_key_biases_and_a_narrow_last_block(make_model: MakeModel) -> None:
    model = make_model("vit_tiny_patch16_224", img_size=64, depth=3)
    made = rewrite(network_of_module(model, shape_of(model)))
    nodes = count_nodes(made.model)
    assert "Sub" not in nodes and "ReduceMean" not in nodes
    assert {k: made.applied[k] for k in ("key biases", "value biases", "centre", "tokens")} == {
        "key biases": 3, "value biases": 3, "centre": 7, "tokens": 1,
    }  # fmt: skip
    assert nodes["Transpose"] <= 3 * 3 and nodes["MatMul"] == 2 * 3


@pytest.mark.parametrize("batch", [1, 3])
def test_batches_non_square_inputs_and_feature_maps(make_model: MakeModel, batch: int) -> None:
    """All in one network."""
    model = feature_maps(make_model("vit_tiny_patch16_224", img_size=(64, 96), depth=3), (0, 2))
    shape = (batch, 3, 64, 96)
    made = rewrite(network_of_module(model, shape))
    assert [o.shape for o in made.tensor_map.outputs] == [(batch, 192, 4, 6)] * 2
    physical = [tuple(d.dim_value for d in o.type.tensor_type.shape.dim) for o in made.model.graph.output]
    assert physical == [(batch, 192, 4, 6)] * 2, "a detector reads them directly"
    proof, _ = proven(made, reference(model, shape, images=4), tolerance=1e-5)
    assert proof.top1_equal is None and proof.images == 4


SAME_BYTES = """
import hashlib, sys, torch
from bpudeploy.restructure.export import export_whole, network_of_module
from bpudeploy.restructure.rewrite import rewrite
from bpudeploy.stages.timm_models import timm
torch.manual_seed(7)
model = timm().create_model(sys.argv[1], img_size=64, num_classes=5).eval()
made = rewrite(network_of_module(model, (1, 3, 64, 64))).model
print(hashlib.sha256(made.SerializeToString(deterministic=True)).hexdigest())
"""


@pytest.mark.parametrize("name", ["test_vit", "xcit_nano_12_p16_224"])
def test_the_same_weights_give_the_same_bytes_in_every_process(name: str) -> None:
    """Hash randomisation: no order may depend on a set."""
    found = set()
    for seed in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-W", "ignore", "-c", SAME_BYTES, name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.add(done.stdout.strip())
    assert len(found) == 1


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
    return replace(rewritten, model=model)


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ("patch_embed", "patch_embed"),
        ("blocks.0.attn", "blocks.0"),
        ("blocks.1.mlp.fc1", "blocks.1.mlp"),
        ("head", "head"),
    ],
)
def test_a_changed_weight_fails_the_proof_and_its_layer_is_named(make_model: MakeModel, part: str, named: str) -> None:
    model = make_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5)
    broken = disturbed(rewrite(network_of_module(model, shape_of(model))), part)
    with pytest.raises(StageError, match=rf"the first layer that differs is {named}"):
        proven(broken, reference(model, shape_of(model)), tolerance=1e-5)


def test_all_counterparts_are_equal_in_a_correct_rewrite(make_model: MakeModel) -> None:
    """Otherwise a failed proof could name the wrong layer."""
    from bpudeploy.restructure.first_difference import first_difference

    for name, options in (FAMILIES[0], FAMILIES[7], FAMILIES[9], FAMILIES[10]):
        model = make_model(name, **options)
        shape = shape_of(model)
        made = rewrite(network_of_module(model, shape))
        assert len(made.tensor_map.counterparts) > 20
        message = first_difference(made.model, made.tensor_map, reference(model, shape).original(), noise(shape), 1e-4)
        assert message.startswith("no inner layer"), (name, message)


def noise(shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def test_a_top1_that_flips_fails_the_proof(make_model: MakeModel) -> None:
    model = make_model("test_vit", img_size=64, num_classes=5)
    truth = reference(model, shape_of(model))
    flipped = np.array(truth.outputs[0])
    top = flipped[0].argsort()
    flipped[0, top[-2]] = flipped[0, top[-1]] + 1e-7 * np.ptp(flipped)
    made = rewrite(network_of_module(model, shape_of(model)))
    with pytest.raises(StageError, match="top-1"):
        proven(made, replace(truth, outputs=[flipped]), tolerance=1e9)


def test_the_record_is_stored_in_the_file(make_model: MakeModel, tmp_path: Path) -> None:
    import onnx

    model = make_model("test_vit", img_size=64, num_classes=5)
    made = rewrite(network_of_module(model, shape_of(model)))
    proof, _ = proven(made, reference(model, shape_of(model)), tolerance=1e-5)
    record = GraphRecord(proof=proof, nodes=count_nodes(made.model), keep_float=made.keep_float, rules=made.applied)
    onnx.save(made.model, tmp_path / "graph.onnx")
    record.append(tmp_path / "graph.onnx")
    loaded = onnx.load(tmp_path / "graph.onnx")
    assert GraphRecord.read(loaded) == record and len(loaded.graph.node) == len(made.model.graph.node)
    record.write(loaded)
    assert GraphRecord.read(loaded) == record and len(loaded.metadata_props) == 1, "replaces the earlier one"


def test_a_gemm_and_a_2d_output_are_errors() -> None:
    import onnx
    from onnx import helper

    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="fc")
    x, w, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2, 2]) for n in "xwy")
    model = helper.make_model(helper.make_graph([node], "g", [x, w], [y]), opset_imports=[helper.make_opsetid("", 11)])
    found = form_errors(model)
    assert any("Gemm" in fault for fault in found) and any("shape (2, 2)" in fault for fault in found)


def test_an_export_failure_quotes_torch(make_model: MakeModel) -> None:
    import torch

    class Adaptive(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            raise RuntimeError("early exit")

    with pytest.raises(StageError, match="early exit"):
        network_of_module(Adaptive(), (1, 3, 8, 8))
