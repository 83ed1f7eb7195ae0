"""max_drop as a promise: broken by thresholds that are far too low, kept by int16, or said to be broken.

The labels are what a randomly initialised float network says of random pictures: it proves mechanics, never accuracy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import bpudeploy
from bpudeploy.backends.samples import Scores
from bpudeploy.cli.main import main
from bpudeploy.planning import pipeline
from bpudeploy.planning.products import BINARY, FLOAT_SCORES, INT8_SCORES, LAYERS, QUANTIZED, REPAIRED
from bpudeploy.quantize.findings import LayerReport, RepairOutcome, RepairReport
from bpudeploy.quantize.record import QuantizeRecord
from bpudeploy.run.runner import RunResult, run
from bpudeploy.spec.precision import Precision

RECIPE = """\
name: fragile
model: {source: backbone.safetensors, architecture: test_vit, image_size: 64, head: {source: head.safetensors}}
dataset: {source: images, evaluation: {count: 40, seed: 0}}
calibration: {count: 12, seed: 1}
preprocess: {crop_pct: 1.0, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}
quantize: {observer: percentile, percentile: 90, weights: {rounding: nearest}}
target: local
benchmark: {warmup: 1, rounds: 3, min_frames: 6, min_seconds: 0, max_seconds: 2, precision: 100, streams: [2]}
"""


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recipe whose float network is right on nearly all of its images."""
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from bpudeploy.stages.timm_models import timm

    folder = tmp_path_factory.mktemp("fragile")
    torch.manual_seed(0)
    backbone = timm().create_model("test_vit", pretrained=False, num_classes=0, img_size=64).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    rng = np.random.default_rng(0)
    pictures = [picture(rng) for _ in range(60)]
    weight = torch.randn(2, backbone.num_features) * 0.1
    with torch.no_grad():
        given = torch.tensor(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
        scores = backbone(given) @ weight.T
    ahead = (scores[:, 1] - scores[:, 0]).sort().values
    gap = 20 + int((ahead[21:41] - ahead[20:40]).argmax())
    bias = torch.tensor([float(ahead[gap] + ahead[gap + 1]) / 2, 0.0])
    save_file(backbone.state_dict(), folder / "backbone.safetensors")
    save_file({"weight": weight, "bias": bias}, folder / "head.safetensors")
    for kind in ("first", "second"):
        (folder / "images" / kind).mkdir(parents=True)
    for i, (pixels, chosen) in enumerate(zip(pictures, (scores + bias).argmax(dim=1).tolist(), strict=True)):
        Image.fromarray(pixels).save(folder / "images" / ("first", "second")[chosen] / f"{i}.png")
    (folder / "fragile.yaml").write_text(RECIPE)
    return folder / "fragile.yaml"


def picture(rng: Any) -> Any:
    """Return 64x64 pixels: one colour, coarse patches and noise, mixed at random."""
    import numpy as np

    parts = [
        rng.integers(0, 256, (1, 1, 3)),
        np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((16, 16, 1))),
        rng.integers(0, 256, (64, 64, 3)),
    ]
    mixed = sum(share * part for share, part in zip(rng.dirichlet([1, 1, 1]), parts, strict=True))
    return np.clip(mixed, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BPUDEPLOY_STORE", str(store))


def build(recipe: Path, store: Path, *sets: str) -> RunResult:
    resolved = bpudeploy.load(recipe, *sets)
    return run(pipeline.plan(resolved), store, lambda event: None)


def repair_of(result: RunResult) -> RepairReport:
    return RepairReport.read(result.artifact(REPAIRED, "findings").path)


def same(result: RunResult, *pairs: tuple[tuple[str, str], tuple[str, str]]) -> bool:
    return all(result.artifact(*a).digest == result.artifact(*b).digest for a, b in pairs)


def test_a_broken_promise_is_repaired_and_everything_after_takes_the_repaired(fragile: Path, store: Path) -> None:
    import onnx

    result = build(fragile, store, "check.max_drop=5")
    found = repair_of(result)
    assert found.outcome is RepairOutcome.REPAIRED and found.drop <= 5 < found.trials[0].drop
    assert 0 < len(found.promoted) <= len(found.ranked) and found.slowdown > 1
    truth, scores = (Scores.read(result.artifact(*x).path) for x in ((FLOAT_SCORES, "scores"), (REPAIRED, "scores")))
    assert found.drop == pytest.approx(100 * (truth.top1 - scores.top1)) and found.images == len(scores.labels) == 40
    model = onnx.load(result.artifact(REPAIRED, "quantized").path)
    record = QuantizeRecord.read(model)
    before = QuantizeRecord.read(onnx.load(result.artifact(QUANTIZED, "quantized").path))
    widened = {n for n, t in record.taps.items() if t.precision is not before.taps[n].precision}
    assert widened == set(found.promoted) and record.levers[-1].endswith("promoted to int16 by repair")
    assert {record.taps[n].precision for n in widened} == {Precision.INT16}
    layers = LayerReport.read(result.artifact(LAYERS).path)
    assert any(Precision.INT16 in layer.inputs for layer in layers.layers) and layers.images == 8
    resolved = bpudeploy.load(fragile, "check.max_drop=5")
    compiled = pipeline.plan(resolved).step(BINARY)
    assert {ref.step for ref in compiled.inputs[:2]} == {REPAIRED}


def test_the_board_gets_the_repaired_network(fragile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(fragile), "--set", "check.max_drop=5", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    repair = summary["quantization"]["repair"]
    taps = len(repair["promoted"])
    forms = [a["form"] for a in summary["accuracy"]]
    assert forms == ["float", "restructured", "int8", f"+ {taps} taps in int16", "on the board"]
    int8, repaired, board = (a["drop"]["points"]["value"] for a in summary["accuracy"][2:])
    assert int8 == repair["trials"][0]["drop"] and repaired == repair["drop"] == board <= 5 < int8
    assert summary["schema_version"] == 8 and [g["holds"] for g in summary["gates"]] == [True]
    assert summary["quantization"]["taps"]["int16"] >= taps


def test_one_that_cannot_be_kept_is_said_before_any_board(fragile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """int16 brings activations back, not the mean that rounded weights are off by: no drop at all is too much here."""
    command = ["run", str(fragile), "--until", "quantize", "--set", "quantize.percentile=60"]
    assert main([*command, "--set", "check.max_drop=0"]) == 4
    out = capsys.readouterr().out
    assert "check max_drop 0 points, on this machine: -" in out and "FAILED; the best of" in out
    assert main([*command, "--set", "check.max_drop=0", "--json"]) == 4
    repair = RepairReport.model_validate(json.loads(capsys.readouterr().out)["repair"])
    assert repair.outcome is RepairOutcome.BEST_EFFORT and repair.drop == min(t.drop for t in repair.trials) > 0
    assert main([*command, "--set", "check.max_drop=100"]) == 0, "the same network, and a promise that it keeps"
    assert "passed, no repair needed" in capsys.readouterr().out


def test_where_there_is_no_int16_nothing_is_tried(fragile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", str(fragile), "--until", "quantize", "--set", "target=rdk-x3", "--json"]
    assert main([*command, "--set", "check.max_drop=1"]) == 4
    repair = RepairReport.model_validate(json.loads(capsys.readouterr().out)["repair"])
    assert repair.outcome is RepairOutcome.NOT_POSSIBLE and len(repair.trials) == 1 and repair.drop > 1


def test_the_budget_is_kept(fragile: Path, store: Path) -> None:
    wide = repair_of(build(fragile, store, "check.max_drop=5"))
    limit = 1 + (wide.slowdown - 1) / 4
    found = repair_of(build(fragile, store, "check.max_drop=5", f"quantize.max_slowdown={limit}"))
    assert found.ranked == wide.ranked and all(t.slowdown <= limit for t in found.trials)
    assert found.slowdown <= limit and found.outcome is RepairOutcome.BEST_EFFORT


def test_another_promise_runs_repair_alone_and_equal_bytes_end_it(fragile: Path, store: Path) -> None:
    first = build(fragile, store, "check.max_drop=70")
    assert repair_of(first).outcome is RepairOutcome.NOT_NEEDED
    passed = [((QUANTIZED, name), (REPAIRED, name)) for name in ("prepared", "quantized")]
    assert same(first, *passed, ((INT8_SCORES, "scores"), (REPAIRED, "scores")))
    assert build(fragile, store, "check.max_drop=71").ran == [REPAIRED]
    without = build(fragile, store)
    assert REPAIRED not in without.steps and without.ran == []
    off = build(fragile, store, "check.max_drop=5", "quantize.repair=false")
    assert REPAIRED not in off.steps and off.ran == []


def test_repair_gives_the_same_bytes_in_another_store(fragile: Path, store: Path, tmp_path: Path) -> None:
    here, there = (build(fragile, root, "check.max_drop=5") for root in (store, tmp_path / "other"))
    assert here.digests[REPAIRED] == there.digests[REPAIRED]


def test_features_are_held_against_float_too(fragile: Path, store: Path) -> None:
    result = build(fragile, store, "model.head=null", "model.outputs=features", "check.max_drop=1")
    assert REPAIRED not in result.steps
    assert LayerReport.read(result.artifact(LAYERS).path).layers


def test_a_release_of_feature_maps_is_refused_before_any_step(fragile: Path, tmp_path: Path) -> None:
    recipe = bpudeploy.load(fragile, "model.head=null", "model.outputs=features")
    with pytest.raises(bpudeploy.BpudeployError, match="fragile gives feature maps"):
        bpudeploy.build(recipe, store=tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


def test_the_files_for_a_compiler_say_that_a_promise_is_broken(
    fragile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["precision", str(fragile), "--out", str(tmp_path / "out"), "--json", "--set", "target=rdk-s100"]
    assert main([*command, "--set", "check.max_drop=0", "--set", "quantize.max_slowdown=1"]) == 4
    said = json.loads(capsys.readouterr().out)
    assert any("check max_drop 0 points" in note for note in said["notes"])
    assert (tmp_path / "out" / "quant_config.json").is_file()


def test_sensitivity_ranks_taps_and_layers(fragile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sensitivity", str(fragile), "--images", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layers"]["images"] == 2 and len(found["candidates"]) > 30
    assert all(c["error"] >= 0 and c["cost"] >= 0 and c["products"] for c in found["candidates"])
    assert main(["sensitivity", str(fragile), "--images", "2", "--set", "target=rdk-x3"]) == 0
    out = capsys.readouterr().out
    assert out.count("     n/a  ") > 30 and "dB  cosine" in out and "predicted" in out
    assert main(["sensitivity", str(fragile), "--images", "0"]) == 2
    assert "--images 0 is below 1" in capsys.readouterr().err


def test_a_limit_that_nothing_reads_is_refused(fragile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(fragile), "--set", "quantize.max_slowdown=1.2"]) == 2
    assert "check.max_drop is not set" in capsys.readouterr().err
    off = ["--set", "quantize.max_slowdown=1.2", "--set", "check.max_drop=1", "--set", "quantize.repair=false"]
    assert main(["validate", str(fragile), *off]) == 2
    assert "repair is off" in capsys.readouterr().err
