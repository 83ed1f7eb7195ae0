"""A recipe up to a vendor's binary: `bpudeploy run --until compile`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bpudeploy.backends.horizon.findings import CompilerFindings, Unit
from bpudeploy.backends.samples import Scores
from bpudeploy.cli.main import main
from tests.fakes.fixtures import VendorTools


def run(tiny: Path, capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    code = main(["run", str(tiny), "--until", "compile", "--json", *args])
    out, err = capsys.readouterr()
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def build(tiny: Path, capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    found: dict[str, Any] = run(tiny, capsys, *args)["steps"]["compile"]
    return found


@pytest.mark.usefixtures("vendor_tools")
def test_a_transformer_is_compiled_for_s100_by_the_fake(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = build(tiny, capsys, "--set", "target=rdk-s100")
    binary, found = (Path(path) for path in made["artifacts"].values())
    findings = CompilerFindings.model_validate_json(found.read_bytes())
    assert binary.read_bytes().startswith(b"FAKEHHBM") and len(findings.told.nodes) > 100


@pytest.mark.usefixtures("toolchain")
@pytest.mark.parametrize("target", ["rdk-x3", "rdk-x5", "rdk-ultra"])
def test_a_transformer_is_compiled_by_the_real_tool(
    tiny: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    level = ("--set", "compile.hb_mapper.optimize_level=O0", "--set", "compile.hb_mapper.input_type_rt=rgb")
    document = run(tiny, capsys, "--set", f"target={target}", *level)
    _, _, found = (Path(path) for path in document["steps"]["compile"]["artifacts"].values())
    findings = CompilerFindings.model_validate_json(found.read_bytes())
    assert findings.differ == (), "the binary has the thresholds of quantize"
    binary, quantized = (
        Scores.read(Path(*document["steps"][step]["artifacts"].values())).logits
        for step in ("compile/scores", "quantize/scores")
    )
    assert document["in_binary"]["images"] == len(binary) == len(quantized)
    spread = (quantized - quantized.mean(axis=1, keepdims=True)).std()
    if target != "rdk-x3":  # there Softmax and more are on the CPU, in float
        assert (binary - quantized).std() < 0.15 * spread, "the binary computes what quantize scored"
    on_cpu = [node.name for node in findings.told.nodes if Unit.CPU in node.on]
    assert len(findings.told.nodes) > 50 and findings.told.unread_rows == 0 and findings.told.estimates
    assert bool(on_cpu) == (target == "rdk-x3"), on_cpu
    again = build(tiny, capsys, "--set", f"target={target}", *level)
    assert again["cache"] == "hit"
    assert main(["sensitivity", str(tiny), "--in-binary", "--images", "2", "--set", f"target={target}", *level]) == 0
    out = capsys.readouterr().out
    assert "tensors of the binary, the largest error first" in out and "(Conv)" in out


def test_the_first_binary_is_cached_and_a_new_tool_recompiles(
    tiny: Path, vendor_tools: VendorTools, capsys: pytest.CaptureFixture[str]
) -> None:
    first = build(tiny, capsys, "--set", "target=rdk-x5")
    again = build(tiny, capsys, "--set", "target=rdk-x5", "--set", "compile.hb_mapper.minutes=5")
    assert (first["cache"], again["cache"]) == ("miss", "hit") and again["artifacts"] == first["artifacts"]
    contained = ("--set", f"compile.hb_mapper.image={vendor_tools.image}")
    other = build(tiny, capsys, "--set", "target=rdk-x5", *contained)
    assert other["cache"] == "miss" and other["artifacts"] != first["artifacts"]


@pytest.mark.usefixtures("vendor_tools")
def test_installed_backends_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backends"]) == 0
    out = capsys.readouterr().out
    assert "hb_mapper 1.24.3" in out and "hb_compile 3.3.22" in out
