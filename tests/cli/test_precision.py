"""The verb precision, on the miniature: real quantization, every vendor's files, nothing half written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bpudeploy.cli.main import main

FILES = {
    "local": {"scales.json"},
    "cpu-ssh": {"scales.json"},
    "rdk-x3": {"scales.json"},
    "rdk-x5": {"scales.json", "node_info.yaml"},
    "rdk-ultra": {"scales.json", "node_info.yaml"},
    "rdk-s100": {"scales.json", "quant_config.json"},
}


def run(tiny: Path, out: Path, target: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["precision", str(tiny), "--set", f"target={target}", "--out", str(out), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("target", FILES)
def test_each_target_gets_the_files_of_its_compiler(
    tiny: Path, tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    out = tmp_path / "made" / target
    said = run(tiny, out, target, capsys)
    names = {path.name for path in out.iterdir()}
    assert names - {"run_on.yaml"} == FILES[target] and {str(out / name) for name in names} == set(said["files"])
    if FILES[target] != {"scales.json"}:
        assert any("hb_compile (S100) has not read such files yet" in note for note in said["notes"])
    graph = onnx.load(said["graph"]["file"])
    nodes = {node.name for node in graph.graph.node}
    scales = json.loads((out / "scales.json").read_text())
    assert scales["images"] == 4 and {a["node"] for a in scales["activations"]} <= {None, *nodes}
    convs = {n.name for n in graph.graph.node if n.op_type == "Conv"}
    assert {name for w in scales["weights"] for name in w["nodes"]} <= convs
    if "node_info.yaml" in names:
        text = (out / "node_info.yaml").read_text()
        assert said["graph"]["sha256"] in text
        pasted = yaml.safe_load(f"model_parameters:\n  march: bayes-e\n{text}")["model_parameters"]
        info = pasted["node_info"]
        assert info and set(info) <= nodes
        for entry in info.values():
            assert set(entry) <= {"ON", "InputType", "InputType0", "InputType1", "OutputType"}
            assert set(entry.values()) <= {"BPU", "CPU", "int8", "int16"}
    if "quant_config.json" in names:
        config = json.loads((out / "quant_config.json").read_text())
        assert list(config) == ["model_config", "op_config", "node_config"] and set(config["node_config"]) <= nodes


def test_a_cpu_has_scales_only_and_says_so(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["precision", str(tiny), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "scales only" in printed and f"  {out / 'scales.json'}" in printed and "the float graph is " in printed


def test_what_is_there_is_replaced_and_what_is_not_ours_stays(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "scales.json").write_text("old")
    (out / "mine.txt").write_text("mine")
    run(tiny, out, "local", capsys)
    first = (out / "scales.json").read_bytes()
    run(tiny, out, "local", capsys)
    assert (out / "scales.json").read_bytes() == first != b"old"
    assert {path.name for path in out.iterdir()} == {"scales.json", "mine.txt"}
    assert (out / "mine.txt").read_text() == "mine"


def test_a_matrix_has_a_folder_for_each_recipe(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = tmp_path / "both.yaml"
    both.write_text(f"extends: {tiny}\nmatrix: {{target: [local, rdk-s100]}}\n")
    assert main(["precision", str(both), "--out", str(tmp_path / "out"), "--json"]) == 0
    assert [json.loads(line)["target"] for line in capsys.readouterr().out.splitlines()] == ["local", "rdk-s100"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"tiny-target.local", "tiny-target.rdk-s100"}


def test_a_file_in_the_way_is_said_before_any_work(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("a file")
    assert main(["precision", str(tiny), "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert "is not a folder" in err and "fix: " in err and out == ""
    assert not (tmp_path / "store" / "objects").exists() and (tmp_path / "out").read_text() == "a file"


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["precision", "--help"])
    assert stopped.value.code == 0
    assert "bpudeploy precision" in capsys.readouterr().out.split("example:")[1]
