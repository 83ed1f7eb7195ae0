"""`bpudeploy estimate` as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from bpudeploy.cli.main import main
from bpudeploy.predict.prediction import Prediction
from tests.conformance.graphs import graph, zeros

MODEL = "test_vit"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def convs(tmp_path: Path) -> Path:
    """Return an ONNX file of a convolution, a pooling and a matrix product by a constant."""
    nodes: list[Any] = [
        ("Conv", ["x", "w"], ["a"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("GlobalAveragePool", ["a"], ["c"], {}),
        ("Flatten", ["c"], ["d"], {}),
        ("Gemm", ["d", "v"], ["y"], {}),
    ]
    model = graph(nodes, {"x": (1, 3, 16, 16)}, {"w": zeros(8, 3, 3, 3) + 1, "v": zeros(8, 2) + 1}, opset=13)
    path = tmp_path / "convs.onnx"
    onnx.save(model, path)
    return path


def test_a_network_is_estimated_on_several_boards(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", MODEL, "--target", "rdk-x3,rdk-x5", "--target", "rdk-s100", "--top", "3"]) == 0
    out = capsys.readouterr().out
    for target, march in (("rdk-x3", "bernoulli2"), ("rdk-x5", "bayes-e"), ("rdk-s100", "nash-e")):
        assert f"{MODEL} on {target}" in out and march in out
    words = " ".join(out.split())
    assert out.count("PREDICTED, nothing was measured") == 3
    assert "the paper reports up to 3.8x" in words and "speed-up predicted" in words
    assert (
        "restructured, all int8" in words and "restructured, all int16" in words and "original, by the rules" in words
    )
    assert "bernoulli2 has none" in words and "CPU fallback" in words
    assert "median error of" in words and "fitted to no vision transformer" in words
    assert "measured" not in words.replace("nothing was measured", "")


def test_json_is_one_document_of_predictions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", MODEL, "--target", "rdk-x5,rdk-ultra", "--json"]) == 0
    x5, ultra = (Prediction.model_validate_json(json.dumps(one)) for one in json.loads(capsys.readouterr().out))
    assert (x5.target, ultra.target) == ("rdk-x5", "rdk-ultra") and x5.provenance == "predicted"
    rules, int8, int16 = x5.restructured
    assert int8.predicted_ms <= rules.predicted_ms <= int16.predicted_ms
    assert x5.predicted_speedup == pytest.approx(x5.original.predicted_ms / rules.predicted_ms)
    assert "no RDK Ultra latency is published" in ultra.original.basis


def test_an_onnx_file_is_estimated(convs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", str(convs), "--target", "rdk-x5"]) == 0
    assert "convs.onnx on rdk-x5" in capsys.readouterr().out


def test_a_recipe_is_estimated_on_the_boards_that_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = ROOT / "recipes" / "quickstart.yaml"
    assert main(["estimate", str(recipe), "--target", "rdk-x5", "--top", "0"]) == 0
    assert "on rdk-x5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([MODEL], "--target is missing"),
        ([MODEL, "--target", "local"], "target local has no BPU: there is nothing to predict"),
        (["recipes/quickstart.yaml"], "has no BPU: there is nothing to predict"),
        ([MODEL, "--target", "rdk-x9"], "no target is named 'rdk-x9'"),
        ([MODEL, "--target", "rdk-x5", "--image-size", "3"], "--image-size 3 is out of range"),
        ([MODEL, "--target", "rdk-x5", "--top", "-1"], "--top -1 is below 0"),
        (["no_such_network", "--target", "rdk-x5"], "no_such_network"),
        (["no.onnx", "--target", "rdk-x5"], "there is no file no.onnx"),
    ],
)
def test_a_mistake_is_said_with_its_fix(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["estimate", *argv]) == 2
    error = capsys.readouterr().err
    assert said in error and "fix:" in error


def test_a_march_without_a_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "s600.yaml"
    target.write_text("{name: s600, description: d, march: nash-p, backend: hb_compile}\n")
    assert main(["estimate", MODEL, "--target", str(target)]) == 2
    error = capsys.readouterr().err
    assert "no latency model of nash-p, the march of s600" in error and "rdk-x5" in error


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["estimate", "--help"])
    out = capsys.readouterr().out
    assert "bpudeploy estimate recipes/quickstart.yaml --target rdk-x3,rdk-x5,rdk-s100" in out
    assert "nothing is measured" in out


def test_the_verb_is_imported_without_torch_and_onnxruntime() -> None:
    code = "import sys, bpudeploy.cli.main, bpudeploy.cli.verbs, bpudeploy.cli.verbs.estimate; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "timm", "onnx", "onnxruntime"} & set(done.stdout.split())
