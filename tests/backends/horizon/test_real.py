"""The real hb_mapper, where it is installed (make toolchain): what we write it takes, and what it says we read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx
import pytest

from bpudeploy.backends.base import FINDINGS
from bpudeploy.backends.check import check_backend
from bpudeploy.backends.horizon.checker import check
from bpudeploy.backends.horizon.findings import Findings, Unit
from bpudeploy.backends.horizon.hb_mapper import HbMapperBackend
from bpudeploy.backends.horizon.toolchain.installed import Toolchain
from bpudeploy.cli.main import main
from bpudeploy.conformance.placement import placement
from bpudeploy.conformance.report import Device
from bpudeploy.errors import StageError
from bpudeploy.spec.compile_options import HbMapperOptions, OptimizeLevel
from bpudeploy.spec.target import March
from tests.backends.horizon.conftest import Compiling
from tests.backends.horizon.record import network

MARCHES = [March.BERNOULLI2, March.BAYES, March.BAYES_E]
pytestmark = pytest.mark.usefixtures("toolchain")


def findings(compiling: Compiling) -> Findings:
    return Findings.model_validate_json((compiling.work / FINDINGS).read_bytes())


@pytest.mark.parametrize("march", MARCHES)
def test_it_keeps_the_protocol(march: March, tmp_path: Path) -> None:
    check_backend(HbMapperBackend(), tmp_path, march.value, HbMapperOptions(optimize_level=OptimizeLevel.O0))


@pytest.mark.parametrize("rt", ["nv12", "rgb"])
def test_it_compiles_and_says_what_the_log_said(rt: str, toolchain: Toolchain, compiling: Compiling) -> None:
    binary = compiling("hb_mapper", input_type_rt=rt, optimize_level="O0")
    assert binary.suffix == ".bin" and binary.stat().st_size > 1000
    assert {p.name for p in compiling.work.iterdir()} == {binary.name, FINDINGS}, "nothing else is left"
    found = findings(compiling)
    assert (found.backend, found.march, found.tool) == ("hb_mapper", "bayes-e", dict(toolchain.fingerprint))
    assert found.told.versions["hb_mapper"] == toolchain.versions["hb_mapper"]
    assert found.told.calibration_images == 4 and found.told.unread_rows == 0
    assert any(Unit.BPU in node.on for node in found.told.nodes) and found.told.outputs[0].worst is not None
    assert f'input_type_rt: "{rt}"' in found.config and "of `bpudeploy toolchain`" in compiling.notes
    assert "nodes on the BPU" in compiling.notes and "estimated by the compiler" in compiling.notes


def test_several_optimizations_reach_it_one_by_one(compiling: Compiling) -> None:
    compiling("hb_mapper", optimize_level="O0", optimization=["set_Conv_input_int8", "set_model_output_int8"])
    assert "set_Conv_input_int8;set_model_output_int8" in findings(compiling).config


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"core_num": 2}, "not support execute one model on 2 core", "compile.hb_mapper.core_num"),
        ({"optimization": ["set_Conv_input_int8"], "core_num": 3}, "core num", "compile.hb_mapper.core_num"),
        ({"compile_mode": "balance"}, "please set balance_factor", "balance_factor"),
    ],
)
def test_its_reason_is_shown_with_what_to_change(
    options: dict[str, Any], message: str, hint: str, compiling: Compiling
) -> None:
    with pytest.raises(StageError, match=message) as raised:
        compiling("hb_mapper", optimize_level="O0", **options)
    assert hint in (raised.value.hint or "")
    kept = re.search(r"(/\S+)$", raised.value.hint or "")
    assert kept and {"console.log", "config.yaml", "hb_mapper_makertbin.log"} <= {
        p.name for p in Path(kept[1]).iterdir()
    }


@pytest.mark.parametrize("march", MARCHES)
def test_inspect_agrees_with_its_checker_on_a_network_that_no_table_was_made_of(march: March) -> None:
    model = onnx.shape_inference.infer_shapes(network())
    said = check(model, march, HbMapperOptions(), lambda event: None)
    ours = {n.name for n in placement(model, march).nodes if n.device is not Device.BPU}
    if march is not March.BERNOULLI2:
        ours.discard("attention.softmax")  # on the BPU where it is asked for, which the checker is not
        assert ours == said.cpu - {"attention.softmax"}
    assert ours <= said.cpu | {"norm2"}


def test_inspect_with_compiler_shows_the_tools_own_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(onnx.shape_inference.infer_shapes(network()), tmp_path / "m.onnx")
    argv = ["inspect", str(tmp_path / "m.onnx"), "--target", "rdk-x5", "--original", "--with-compiler"]
    assert main(argv) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "asked of hb_mapper 1.24.3 checker itself" in out and re.search(r"places (\d+) of \1 nodes alike", out)


def test_an_operator_that_neither_device_has_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = network()
    model.graph.node[1].op_type = "Shrink"
    onnx.save(model, tmp_path / "m.onnx")
    argv = ["inspect", str(tmp_path / "m.onnx"), "--target", "rdk-x5", "--original", "--with-compiler"]
    assert main(argv) == 3
    err = capsys.readouterr().err
    assert "not support these cpu operators: Shrink" in err and "hb_mapper checker:" in err
