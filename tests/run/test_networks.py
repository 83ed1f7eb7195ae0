"""Other networks than a timm classifier: a user's ONNX file, several images at once, feature maps. In miniature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bpudeploy
from bpudeploy.cli.main import main
from bpudeploy.errors import StageError
from bpudeploy.planning import pipeline
from bpudeploy.restructure.record import GraphRecord
from bpudeploy.run.runner import RunResult, run

PREPARED = "preprocess: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25], interpolation: bilinear, crop_pct: 1.0}\n"


def own_network(path: Path, *, shape: tuple[Any, ...] = (1, 3, 32, 32), classes: int = 2, second: bool = False) -> Path:
    """Write a user's network: a convolution, tokens, a norm in parts, attention, a mean and a Gemm; opset 13."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    made = helper.make_node
    nodes = [
        made("Conv", ["x", "w"], ["c"], strides=[8, 8]),
        made("Reshape", ["c", "s"], ["r"]),
        made("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
        made("MatMul", ["t", "r"], ["l"]),
        made("Softmax", ["l"], ["a"], axis=-1),
        made("MatMul", ["a", "t"], ["u"]),
        made("ReduceMean", ["u"], ["m"], axes=[1], keepdims=0),
        made("Gemm", ["m", "g", "b"], ["y"], transB=1),
    ]
    constants = {
        "w": rng.standard_normal((8, 3, 8, 8)).astype(np.float32) * 0.05,
        "s": np.array([0, 8, -1]),
        "g": rng.standard_normal((classes, 8)).astype(np.float32),
        "b": np.zeros(classes, np.float32),
    }
    outputs = ["y", "c"] if second else ["y"]
    graph = helper.make_graph(
        nodes,
        "own",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def recipe(tiny: Path, model: str, more: str = PREPARED) -> Path:
    """Write a recipe of another model over the tiny one's images."""
    path = tiny.with_name(f"{abs(hash(model + more))}.yaml")
    lines = [line for line in tiny.read_text().splitlines() if line[:1] != " " and not line.startswith("model:")]
    body = [x for x in lines if x.split(":")[0] not in ("dataset",)]
    dataset = "dataset: {source: images, evaluation: {count: 5, seed: 0}}\n"
    path.write_text("\n".join(body) + f"\n{dataset}model: {model}\n{more}")
    return path


def built(path: Path, store: Path, until: str = "compile") -> RunResult:
    resolved = bpudeploy.load(path)
    return run(pipeline.plan(resolved).until(until), store, lambda event: None)


def test_a_user_s_onnx_network_goes_all_the_way(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own_network(tiny.with_name("own.onnx"))
    assert main(["run", str(recipe(tiny, "{onnx: own.onnx}")), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["proof_difference"] < 1e-5 and summary["proof_images"] == 5
    where = {a["form"]: a["where"] for a in summary["accuracy"]}
    assert where["float"] == "host, onnxruntime", "the original is an ONNX file, and torch never saw it"
    assert summary["accuracy"][-1]["images"] == 5


@pytest.mark.parametrize("batch", [2, 4])
def test_several_images_at_once(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], batch: int) -> None:
    """Five images in batches of two and four: the last batch is filled up, and its extra answers are no images."""
    one = built(tiny, tmp_path / "store", "quantize")
    assert main(["run", str(tiny), "--json", "--set", f"model.batch={batch}"]) == 0
    summary = json.loads(capsys.readouterr().out)
    measured = summary["measurement"]
    assert measured["batch"] == batch and len(measured["answers"]["top"]) == 6
    assert measured["latency"]["fps"] == pytest.approx(1000 * batch / measured["latency"]["mean_ms"])
    from bpudeploy.backends.samples import Scores

    single = Scores.read(one.artifact("restructure", "scores").path).logits
    many = Scores.read(
        built(_batched(tiny, batch), tmp_path / "store", "quantize").artifact("restructure", "scores").path
    ).logits
    np.testing.assert_allclose(many, single, atol=1e-5 * float(np.ptp(single)))


def _batched(tiny: Path, batch: int) -> Path:
    path = tiny.with_name(f"batch{batch}.yaml")
    path.write_text(f"extends: {tiny.name}\nmodel: {{batch: {batch}}}\n")
    return path


def test_feature_maps_for_a_detector(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Maps of two blocks of a plain ViT, at another size than its own, as (1, C, h, w); compiled, no top-1."""
    import onnx

    path = tiny.with_name("features.yaml")
    path.write_text(
        f"extends: {tiny.name}\nmodel: {{outputs: features, layers: [1, 3], image_size: [64, 96], head: null}}\n"
    )
    result = built(path, tmp_path / "store")
    graph = onnx.load(result.artifact("restructure").path)
    shapes = [[d.dim_value for d in o.type.tensor_type.shape.dim] for o in graph.graph.output]
    assert len(shapes) == 2 and all(len(s) == 4 and s[2:] == [4, 6] for s in shapes)
    proof = GraphRecord.read(graph).proof
    assert proof.top1_equal is None and proof.max_relative_difference <= 1e-5
    assert "quantize/scores" not in result.steps and "compile" in result.steps
    assert main(["run", str(path)]) == 2
    assert "--until compile" in capsys.readouterr().err


def test_a_network_with_several_outputs(tiny: Path, tmp_path: Path) -> None:
    own_network(tiny.with_name("two.onnx"), second=True)
    with pytest.raises(StageError, match="not one row of class scores") as caught:
        built(recipe(tiny, "{onnx: two.onnx}"), tmp_path / "store", "fetch")
    assert "outputs: features" in (caught.value.hint or "")
    result = built(recipe(tiny, "{onnx: two.onnx, outputs: features}"), tmp_path / "store")
    assert result.artifact("compile").path.stat().st_size


def test_an_onnx_shape_that_is_not_fixed_takes_the_recipe_s(tiny: Path, tmp_path: Path) -> None:
    own_network(tiny.with_name("free.onnx"), shape=("n", 3, "h", "w"))
    with pytest.raises(StageError, match="not fixed"):
        built(recipe(tiny, "{onnx: free.onnx}"), tmp_path / "store", "fetch")
    result = built(recipe(tiny, "{onnx: free.onnx, image_size: [32, 40], batch: 2}"), tmp_path / "store", "restructure")
    import onnx

    (given,) = onnx.load(result.artifact("restructure").path).graph.input
    assert [d.dim_value for d in given.type.tensor_type.shape.dim] == [2, 3, 32, 40]
    own_network(tiny.with_name("fixed.onnx"))
    with pytest.raises(StageError, match="has 32 on axis 2, the recipe says 64"):
        built(recipe(tiny, "{onnx: fixed.onnx, image_size: 64}"), tmp_path / "store", "fetch")


@pytest.mark.parametrize(
    ("model", "more", "said"),
    [
        ("{onnx: own.onnx}", "", "mean, std, interpolation, crop_pct missing"),
        ("{onnx: own.onnx, source: own.onnx}", PREPARED, "both set"),
        ("{onnx: own.onnx, architecture: test_vit}", PREPARED, "architecture cannot be combined"),
        ("{onnx: tiny.yaml}", PREPARED, "does not end in .onnx"),
        ("{onnx: none.onnx}", PREPARED, "there is no"),
        ("{onnx: own.onnx, layers: [1]}", PREPARED, "layers requires"),
        ("{architecture: test_vit}", "", "model.source is missing"),
        ("{onnx: own.onnx, batch: 0}", PREPARED, "model.batch"),
        ("{onnx: own.onnx, image_size: [32, 8]}", PREPARED, "image_size"),
    ],
)
def test_a_model_section_that_is_wrong_is_said_with_its_field(
    tiny: Path, capsys: pytest.CaptureFixture[str], model: str, more: str, said: str
) -> None:
    own_network(tiny.with_name("own.onnx"))
    assert main(["validate", str(recipe(tiny, model, more))]) == 2
    err = capsys.readouterr().err
    assert said in err and "fix:" in err


def test_what_is_no_onnx_file_is_refused(tiny: Path, tmp_path: Path) -> None:
    tiny.with_name("garbage.onnx").write_bytes(b"not a model" * 50)
    with pytest.raises(StageError, match=r"not an ONNX file|opset [01]"):
        built(recipe(tiny, "{onnx: garbage.onnx}"), tmp_path / "store", "fetch")
