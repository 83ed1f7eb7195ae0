"""`bpudeploy inspect` and its page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import onnx
import pytest

from bpudeploy.cli.main import main
from bpudeploy.conformance.report import Inspection
from bpudeploy.results.report import write_inspection
from tests.conformance.graphs import graph, zeros

MODEL = "test_vit"


@pytest.fixture
def convs(tmp_path: Path) -> Path:
    """Return an ONNX file with a convolution, a Neg and a matrix product by a constant."""
    nodes: list[Any] = [
        ("Conv", ["x", "w"], ["a"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("Neg", ["a"], ["b"], {}),
        ("GlobalAveragePool", ["b"], ["c"], {}),
        ("Flatten", ["c"], ["d"], {}),
        ("Gemm", ["d", "v"], ["y"], {}),
    ]
    model = graph(nodes, {"x": (1, 3, 16, 16)}, {"w": zeros(8, 3, 3, 3) + 1, "v": zeros(8, 2) + 1}, opset=13)
    path = tmp_path / "convs.onnx"
    onnx.save(model, path)
    return path


def test_a_model_is_inspected_without_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", MODEL, "--target", "rdk-x5"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "test_vit on rdk-x5 (RDK X5, bayes-e), restructured" in out and "random weights" in out
    assert " Exp BPU " in out and "Softmax CPU" not in out  # the layout for X5 writes softmax out
    assert "100.0 % on the BPU" in out and "BPU segments 1; 0 tensors handed over" in out
    assert "supported_op_list" in out and "no latency" in out and "passive quantization" in out


def test_several_targets_are_compared_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", MODEL, "--target", "rdk-x3,rdk-s100", "--target", "local"]) == 0
    table, *rest = capsys.readouterr().out.split("\n\n")
    assert [line.split()[1] for line in table.splitlines()[1:]] == ["rdk-x3", "rdk-s100", "local"]
    assert "this target has no BPU" in "".join(rest) and "no public operator table" in "".join(rest)
    assert re.search(r"BPU segments +\d+ to \d+ \(fewest if the unknown nodes run on the BPU\)", "".join(rest))


def test_the_original_is_inspected_as_exported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", MODEL, "--target", "rdk-x5", "--original", "--json"]) == 0
    found = Inspection.model_validate_json(capsys.readouterr().out).placement
    assert found.form == "original" and any("opset 17" in text for text in found.model_findings)
    assert {h.fix.value for h in found.helps} >= {"restructure"}
    assert any(n.device == "folded" for n in found.nodes)


def test_json_is_one_document_per_target_with_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", MODEL, "--target", "rdk-x5,rdk-x3", "--json"]) == 0
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [d["target"] for d in documents] == ["rdk-x5", "rdk-x3"]
    schema = Inspection.model_json_schema()
    for document in documents:
        jsonschema.validate(document, schema)
        assert all(n["source"] and n["reason"] for n in document["placement"]["nodes"])


def test_all_lists_each_node_with_its_shapes(convs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(convs), "--target", "rdk-x5", "--original", "--all"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"CPU +Neg +b +1x8x16x16 -> 1x8x16x16", out)
    assert main(["inspect", str(convs), "--target", "rdk-x5"]) == 0
    assert "restructured" in capsys.readouterr().out


def test_a_recipe_names_its_model_and_target(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["target"]) == ("test_vit", "local") and "64x64" in found["origin"]
    last = found["placement"]["nodes"][-1]
    assert last["outputs"][0][1] == 2  # the classes of the recipe's head
    assert main(["inspect", str(tiny), "--target", "rdk-x5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["target"] == "rdk-x5"


def test_an_image_size_changes_the_shapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", MODEL, "--target", "rdk-x5", "--image-size", "96", "--json"]) == 0
    assert "96x96 pixels" in json.loads(capsys.readouterr().out)["origin"]
    path = tmp_path / "open.onnx"
    model = graph([("Relu", ["x"], ["y"], {})], {"x": (1, 3, 8, 8)})
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "s"
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    onnx.save(model, path)
    args = ["inspect", str(path), "--target", "rdk-x5", "--original"]
    assert main(args) == 2
    assert "is not fixed" in capsys.readouterr().err
    assert main([*args, "--image-size", "32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["placement"]["nodes"][0]["outputs"] == [[1, 3, 32, 32]]


@pytest.mark.parametrize(
    ("args", "message", "fix"),
    [
        (["tset_vit", "--target", "rdk-x5"], "no architecture 'tset_vit'", "did you mean test_vit"),
        (["test_vit", "--target", "rdk-x6"], "no target is named 'rdk-x6'", "did you mean rdk-x"),
        (["test_vit"], "--target is missing", "--target NAME"),
        (["nowhere.onnx", "--target", "rdk-x5"], "there is no file", "path of an .onnx"),
        (["{bad}", "--target", "rdk-x5"], "not an ONNX file", ".onnx model"),
        (["weights.pth", "--target", "rdk-x5"], "cannot be inspected", "a timm architecture"),
        (["nowhere.yaml", "--target", "rdk-x5"], "there is no file", ""),
        (["test_vit", "--target", "rdk-x5", "--image-size", "3"], "out of range", "16 to 4096"),
        (["test_vit", "--target", "rdk-x5", "--image-size", "97"], "97", "multiple of the patch"),
        (["{convs}", "--target", "rdk-x5", "--image-size", "32"], "has 16 on axis 2, not 32", "--image-size"),
        (["test_vit", "--target", "rdk-x5", "--html", "/nonexistent/x.html"], "cannot write", "--html"),
    ],
)
def test_mistakes_are_reported_with_a_fix(
    convs: Path, tmp_path: Path, args: list[str], message: str, fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.onnx").write_text("this is no model")
    given = [a.replace("{bad}", str(tmp_path / "bad.onnx")).replace("{convs}", str(convs)) for a in args]
    assert main(["inspect", *given]) == 2
    out, err = capsys.readouterr()
    assert message in err and fix in err and "fix: " in err and out == ""


def test_a_model_without_a_4d_form_can_be_inspected_as_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "topk.onnx"
    model = graph([("NonZero", ["x"], ["y"], {})], {"x": (1, 3, 8, 8)})
    onnx.save(model, path)
    assert main(["inspect", str(path), "--target", "rdk-x5"]) == 3
    assert "`--original` inspects topk.onnx" in capsys.readouterr().err
    assert main(["inspect", str(path), "--target", "rdk-x5", "--original"]) == 0


def test_the_page_is_one_file_that_loads_nothing(convs: Path, tmp_path: Path) -> None:
    page = tmp_path / "placement.html"
    assert main(["inspect", str(convs), "--target", "rdk-x5,rdk-x3", "--html", str(page)]) == 0
    text = page.read_text()
    assert text.count("<svg") == 2 and "RDK X3" in text and "no latency" in text
    assert not re.search(r"<(script|link|img|iframe)|@import|\bsrc=|\bhref=", text)


def test_the_page_escapes_names(convs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(convs), "--target", "rdk-x5", "--json"]) == 0
    found = Inspection.model_validate_json(capsys.readouterr().out)
    evil = found.model_copy(update={"model": "<script>alert(1)</script>"})
    write_inspection([evil], tmp_path / "page.html")
    assert "<script" not in (tmp_path / "page.html").read_text()
