"""Options of the vendor compilers: those that a march does not have are refused with location and hint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from bpudeploy.spec.compile_options import HbCompileOptions, HbMapperOptions
from bpudeploy.stages.compile import CompileStageOptions
from tests.spec.conftest import error, load

BACKEND = {"rdk-x3": "hb_mapper", "rdk-x5": "hb_mapper", "rdk-ultra": "hb_mapper", "rdk-s100": "hb_compile"}


pytestmark = pytest.mark.usefixtures("here")


def recipe(target: str, section: str, model: str = "") -> str:
    return (
        f"name: r\nmodel: {{source: w.safetensors, architecture: vit{model}}}\ndataset: {{source: photos}}\n"
        f"calibration: {{count: 8}}\ntarget: {target}\ncompile: {{{BACKEND[target]}: {{{section}}}}}\n"
    )


GOOD = [
    ("rdk-x3", "core_num: 2, optimization: [set_model_output_int8]"),
    ("rdk-x5", "optimize_level: O3, optimization: [set_Softmax_input_int8, set_all_nodes_int16]"),
    ("rdk-ultra", "calibration_type: max, max_percentile: 0.9999, per_channel: true"),
    ("rdk-s100", "compile_mode: balance, balance_factor: 50, optimize_level: O2, max_time_per_fc: 1000"),
    ("rdk-x5", "image: 'openexplorer/ai_toolchain_ubuntu_20_x5_cpu:v1.2.8', memory_gib: 32, minutes: 60, jobs: 4"),
    ("rdk-s100", "input_type_rt: rgb, calibration_count: 8, debug: true, calibration_type: kl"),
]


@pytest.mark.parametrize(("target", "section"), GOOD)
def test_options_of_the_march_are_accepted(target: str, section: str) -> None:
    load(recipe(target, section))


BAD = [
    ("rdk-x5", "core_num: 2", "core_num", "has no core_num 2", "allowed: 1"),
    ("rdk-s100", "optimize_level: O3", "optimize_level", "has no optimize_level O3", "O0, O1, O2"),
    ("rdk-x5", "compile_mode: balance", "compile_mode", "has no compile_mode balance", "latency"),
    ("rdk-x3", "optimization: [set_model_output_int16]", "optimization", "has no optimization set_model", "int8"),
    ("rdk-s100", "optimization: [set_Softmax_input_int8]", "optimization", "has no optimization set_Soft", "int16"),
    ("rdk-x5", "optimization: [faster]", "optimization", "", ""),
    ("rdk-x5", "balance_factor: 5", "balance_factor", "unknown key", ""),
    ("rdk-s100", "compile_mode: balance", "compile_mode", "requires a balance_factor", "balance_factor: 50"),
    ("rdk-s100", "balance_factor: 5", "balance_factor", "requires compile_mode balance", "balance"),
    ("rdk-x5", "per_channel: true", "per_channel", "requires calibration_type max or kl", "max"),
    ("rdk-x5", "calibration_type: mix, per_channel: true", "per_channel", "does not apply to calibration_type", "max"),
    ("rdk-x5", "max_percentile: 0.9", "max_percentile", "requires calibration_type max", "max"),
    ("rdk-x5", "calibration_type: max, max_percentile: 1.1", "max_percentile", "", ""),
    ("rdk-x5", "max_time_per_fc: 5", "max_time_per_fc", "0 or at least 1000", "1000"),
    ("rdk-s100", "max_time_per_fc: 4000000000", "max_time_per_fc", "above 10000000", ""),
    ("rdk-x5", "calibration_count: 9", "calibration_count", "more than the calibration.count 8", "8 or less"),
    ("rdk-x5", "image: '--privileged'", "image", "", ""),
    ("rdk-x5", "minutes: 0", "minutes", "", ""),
]


@pytest.mark.parametrize(("target", "section", "field", "message", "hint"), BAD)
def test_other_options_are_refused(target: str, section: str, field: str, message: str, hint: str) -> None:
    found = error(recipe(target, section))
    assert str(found.where).startswith("r.yaml:6:") and (found.field or "").startswith(f"compile.{BACKEND[target]}")
    assert field in (found.field or "") and message in found.message and hint in (found.hint or "") and found.hint


def test_nv12_requires_even_sides_and_vendor_compilers_batch_1() -> None:
    found = error(recipe("rdk-x5", "", ", image_size: [224, 225]"))
    assert "even height and width" in found.message
    assert found.field == "model.image_size" and "input_type_rt: rgb" in (found.hint or "")
    load(recipe("rdk-x5", "input_type_rt: rgb", ", image_size: [224, 225]"))
    found = error(recipe("rdk-s100", "", ", batch: 2"))
    assert "batch 1 only" in found.message and found.field == "model.batch"


def test_options_that_do_not_change_the_binary_are_in_no_key() -> None:
    def canonical(section: str) -> Mapping[str, Any]:
        resolved = load(recipe("rdk-x5", f"optimize_level: O2{section}"))
        options = resolved.recipe.compile.hb_mapper or HbMapperOptions()
        return CompileStageOptions(resolved.target.march, options).canonical()

    plain = canonical("")
    assert plain == canonical(", image: 'i:1', memory_gib: 32, minutes: 60, jobs: 4") and plain["march"] == "bayes-e"
    assert canonical(", debug: true")["debug"]
    assert HbCompileOptions().minutes == 360
