"""Options of the vendors' compilers: what a march does not have is refused with its place and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpudeploy.errors import SpecError
from bpudeploy.spec.compile_options import HbCompileOptions, HbMapperOptions
from bpudeploy.spec.load import LoadedRecipe, load_recipe
from bpudeploy.stages.compile import CompileStageOptions

BACKEND = {"rdk-x3": "hb_mapper", "rdk-x5": "hb_mapper", "rdk-ultra": "hb_mapper", "rdk-s100": "hb_compile"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "w.safetensors").write_bytes(b"weights")


def load(target: str, section: str, model: str = "") -> LoadedRecipe:
    Path("r.yaml").write_text(
        f"name: r\nmodel: {{source: w.safetensors, architecture: vit{model}}}\ndataset: {{source: photos}}\n"
        f"calibration: {{count: 8}}\ntarget: {target}\ncompile: {{{BACKEND[target]}: {{{section}}}}}\n"
    )
    (resolved,) = load_recipe(Path("r.yaml"))
    return resolved


GOOD = [
    ("rdk-x3", "core_num: 2, optimization: [set_model_output_int8]"),
    ("rdk-x5", "optimize_level: O3, optimization: [set_Softmax_input_int8, set_all_nodes_int16]"),
    ("rdk-ultra", "calibration_type: max, max_percentile: 0.9999, per_channel: true"),
    ("rdk-s100", "compile_mode: balance, balance_factor: 50, optimize_level: O2, max_time_per_fc: 1000"),
    ("rdk-x5", "image: 'openexplorer/ai_toolchain_ubuntu_20_x5_cpu:v1.2.8', memory_gib: 32, minutes: 60, jobs: 4"),
    ("rdk-s100", "input_type_rt: rgb, calibration_count: 8, debug: true, calibration_type: kl"),
]


@pytest.mark.parametrize(("target", "section"), GOOD)
def test_what_a_march_has_is_taken(target: str, section: str) -> None:
    load(target, section)


BAD = [
    ("rdk-x5", "core_num: 2", "core_num", "has no core_num 2", "it has: 1"),
    ("rdk-s100", "optimize_level: O3", "optimize_level", "has no optimize_level O3", "O0, O1, O2"),
    ("rdk-x5", "compile_mode: balance", "compile_mode", "has no compile_mode balance", "latency"),
    ("rdk-x3", "optimization: [set_model_output_int16]", "optimization", "has no optimization set_model", "int8"),
    ("rdk-s100", "optimization: [set_Softmax_input_int8]", "optimization", "has no optimization set_Soft", "int16"),
    ("rdk-x5", "optimization: [faster]", "optimization", "", ""),
    ("rdk-x5", "balance_factor: 5", "balance_factor", "unknown key", ""),
    ("rdk-s100", "compile_mode: balance", "compile_mode", "needs a balance_factor", "balance_factor: 50"),
    ("rdk-s100", "balance_factor: 5", "balance_factor", "read with compile_mode balance", "balance"),
    ("rdk-x5", "per_channel: true", "per_channel", "not for calibration_type default", "max"),
    ("rdk-x5", "max_percentile: 0.9", "max_percentile", "read with calibration_type max", "max"),
    ("rdk-x5", "calibration_type: max, max_percentile: 1.1", "max_percentile", "", ""),
    ("rdk-x5", "max_time_per_fc: 5", "max_time_per_fc", "neither 0 nor 1000", "1000"),
    ("rdk-s100", "max_time_per_fc: 4000000000", "max_time_per_fc", "above 10000000", ""),
    ("rdk-x5", "calibration_count: 9", "calibration_count", "more than the calibration.count 8", "8 or less"),
    ("rdk-x5", "image: '--privileged'", "image", "", ""),
    ("rdk-x5", "minutes: 0", "minutes", "", ""),
]


@pytest.mark.parametrize(("target", "section", "field", "message", "hint"), BAD)
def test_what_it_does_not_have_is_refused(target: str, section: str, field: str, message: str, hint: str) -> None:
    with pytest.raises(SpecError) as raised:
        load(target, section)
    found = raised.value
    assert str(found.where).startswith("r.yaml:6:") and (found.field or "").startswith(f"compile.{BACKEND[target]}")
    assert field in (found.field or "") and message in found.message and hint in (found.hint or "") and found.hint


def test_nv12_has_no_odd_sides_and_a_vendor_compiler_one_image_at_once() -> None:
    with pytest.raises(SpecError, match="no odd height or width") as raised:
        load("rdk-x5", "", ", image_size: [224, 225]")
    assert raised.value.field == "model.image_size" and "input_type_rt: rgb" in (raised.value.hint or "")
    load("rdk-x5", "input_type_rt: rgb", ", image_size: [224, 225]")
    with pytest.raises(SpecError, match="one image at once") as raised:
        load("rdk-s100", "", ", batch: 2")
    assert raised.value.field == "model.batch"


def test_what_does_not_change_the_binary_is_in_no_key() -> None:
    plain = load("rdk-x5", "optimize_level: O2")
    other = load("rdk-x5", "optimize_level: O2, image: 'i:1', memory_gib: 32, minutes: 60, jobs: 4")
    changed = load("rdk-x5", "optimize_level: O2, debug: true")
    keys = [
        CompileStageOptions(r.target.march, r.recipe.compile.hb_mapper or HbMapperOptions()) for r in (plain, other)
    ]
    assert keys[0].canonical() == keys[1].canonical() and keys[0].canonical()["march"] == "bayes-e"
    assert CompileStageOptions(changed.target.march, changed.recipe.compile.hb_mapper or HbMapperOptions()).canonical()[
        "debug"
    ]
    assert HbCompileOptions().minutes == 360
