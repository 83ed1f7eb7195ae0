"""The inputs of the tools: YAML, network and images. test_real runs hb_mapper on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bpudeploy.backends.base import CompileInputs
from bpudeploy.backends.check import example_inputs
from bpudeploy.backends.horizon import hb_compile, hb_mapper
from bpudeploy.backends.horizon.config import join_numbers, to_yaml
from bpudeploy.backends.samples import Normalisation, Samples
from bpudeploy.errors import StageError
from bpudeploy.quantize.record import QuantizeRecord
from bpudeploy.spec.compile_options import CalibrationType, HbCompileOptions, HbMapperOptions

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture
def inputs(tmp_path: Path) -> CompileInputs:
    return example_inputs(tmp_path, "bayes-e")


def mapper(inputs: CompileInputs, folder: Path, **options: object) -> dict[str, dict[str, Any]]:
    folder.mkdir()
    chosen = HbMapperOptions.model_validate(options)
    written = hb_mapper.prepare(inputs, chosen, folder, chosen.calibration_type or CalibrationType.DEFAULT)
    found: dict[str, dict[str, Any]] = yaml.safe_load((folder / "config.yaml").read_text())
    assert found == yaml.safe_load(to_yaml(written))
    return found


def compiled(inputs: CompileInputs, folder: Path, **options: object) -> dict[str, dict[str, Any]]:
    folder.mkdir()
    nash = CompileInputs(inputs.graph, inputs.quantized, inputs.calibration, inputs.preprocess, "nash-e")
    found: dict[str, dict[str, Any]] = yaml.safe_load(
        hb_compile.prepare(nash, HbCompileOptions.model_validate(options), folder)
    )
    return found


def test_hb_mapper_configuration(inputs: CompileInputs, tmp_path: Path) -> None:
    found = mapper(inputs, tmp_path / "w")
    assert list(found) == ["model_parameters", "input_parameters", "calibration_parameters", "compiler_parameters"]
    assert found["model_parameters"] == {
        "onnx_model": "model.onnx",
        "march": "bayes-e",
        "output_model_file_prefix": "model",
        "working_dir": "out",
        "layer_out_dump": False,
        "node_info": {"conv": {"ON": "BPU", "InputType0": "int16", "OutputType": "int16"}},
    }
    given = found["input_parameters"]
    assert (given["input_name"], given["input_shape"]) == ("pixels", "1x3x8x8")
    assert (given["input_type_train"], given["input_type_rt"], given["input_layout_train"]) == ("rgb", "nv12", "NCHW")
    assert "input_layout_rt" not in given, "nv12 implies its own"
    assert [float(x) for x in given["mean_value"].split(" ")] == [255 * m for m in MEAN]
    assert [float(x) for x in given["scale_value"].split(" ")] == pytest.approx([1 / (255 * s) for s in STD])
    assert found["calibration_parameters"] == {
        "cal_data_dir": "calibration_f32",
        "cal_data_type": "float32",
        "calibration_type": "default",
    }
    assert found["compiler_parameters"] == {
        "compile_mode": "latency",
        "debug": True,
        "core_num": 1,
        "optimize_level": "O2",
    }


def test_the_recipe_s_thresholds_are_in_a_file_beside_it(inputs: CompileInputs, tmp_path: Path) -> None:
    found = mapper(inputs, tmp_path / "w", calibration_type="recipe")
    assert found["calibration_parameters"]["calibration_type"] == "max", "for what the recipe has no thresholds"
    given = json.loads((tmp_path / "w" / "quantization.json").read_text())
    taps = QuantizeRecord.read(onnx.load(inputs.quantized.path)).taps
    assert {tensor: list(found.values()) for tensor, found in given["activations"].items()} == {
        name: [pytest.approx(tap.threshold)] for name, tap in taps.items()
    }
    assert [len(scales) for scales in given["weights"].values()] == [3]


def test_hb_mapper_gets_pixels_and_hb_compile_the_networks_input(inputs: CompileInputs, tmp_path: Path) -> None:
    mapper(inputs, tmp_path / "b")
    compiled(inputs, tmp_path / "h")
    samples, normalise = Samples.read(inputs.calibration.path), Normalisation.read(inputs.preprocess.path)
    raw, npy = sorted((tmp_path / "b/calibration_f32").iterdir()), sorted((tmp_path / "h/calibration").iterdir())
    assert len(raw) == len(npy) == len(samples) == 4
    for i, (one, other) in enumerate(zip(raw, npy, strict=True)):
        pixels = np.fromfile(one, np.float32).reshape(3, 8, 8)
        assert np.array_equal(pixels, samples.pixels[i].transpose(2, 0, 1).astype(np.float32)) and pixels.max() > 2
        normalised = np.load(other)
        assert normalised.dtype == np.float32 and np.array_equal(normalised, normalise.apply(samples.pixels[i : i + 1]))


def test_both_tools_normalise_a_pixel_alike(inputs: CompileInputs, tmp_path: Path) -> None:
    given = mapper(inputs, tmp_path / "b")["input_parameters"]
    mean, scale = (np.array([float(x) for x in given[k].split()]) for k in ("mean_value", "scale_value"))
    pixels = np.fromfile(tmp_path / "b/calibration_f32/00000.bin", np.float32).reshape(3, 8, 8)
    compiled(inputs, tmp_path / "h")
    applied = (pixels - mean[:, None, None]) * scale[:, None, None]
    assert np.allclose(applied, np.load(tmp_path / "h/calibration/00000.npy")[0], atol=1e-5)


def test_the_network_has_a_supported_ir_version_and_opset(inputs: CompileInputs, tmp_path: Path) -> None:
    mapper(inputs, tmp_path / "b")
    model = onnx.load(tmp_path / "b/model.onnx")
    assert model.ir_version <= 9 and model.opset_import[0].version == 11
    given = onnx.load(inputs.graph.path)
    assert model.graph == given.graph, "the graph itself is as quantize prepared it"


def test_hb_compile_configuration(inputs: CompileInputs, tmp_path: Path) -> None:
    found = compiled(inputs, tmp_path / "w", compile_mode="balance", balance_factor=20, jobs=4, debug=True)
    assert found["model_parameters"]["march"] == "nash-e"
    assert {"norm_type", "input_layout_rt"}.isdisjoint(found["input_parameters"]), "deprecated there"
    assert found["calibration_parameters"] == {"cal_data_dir": "calibration", "quant_config": "quant_config.json"}
    assert found["compiler_parameters"] == {
        "compile_mode": "balance",
        "balance_factor": 20,
        "debug": True,
        "core_num": 1,
        "optimize_level": "O2",
        "jobs": 4,
    }
    quant = json.loads((tmp_path / "w/quant_config.json").read_text())
    assert quant["model_config"]["all_node_type"] == "int8"


def test_options_reach_the_yaml(inputs: CompileInputs, tmp_path: Path) -> None:
    found = mapper(
        inputs,
        tmp_path / "w",
        input_type_rt="rgb",
        calibration_type="max",
        max_percentile=0.00001,
        per_channel=True,
        calibration_count=2,
        optimization=["set_Softmax_input_int8", "set_model_output_int16"],
        max_time_per_fc=1000,
        optimize_level="O1",
    )
    assert found["input_parameters"]["input_layout_rt"] == "NHWC"
    calibration = found["calibration_parameters"]
    assert calibration["max_percentile"] == 0.00001, "no exponent, which YAML 1.1 reads as text"
    assert calibration["per_channel"] is True
    assert calibration["optimization"] == "set_Softmax_input_int8;set_model_output_int16"
    assert found["compiler_parameters"]["max_time_per_fc"] == 1000
    assert len(list((tmp_path / "w/calibration_f32").iterdir())) == 2


def test_unsupported_networks_are_refused_before_the_tool_runs(inputs: CompileInputs, tmp_path: Path) -> None:
    model = onnx.load(inputs.graph.path)
    for shape, message in (((2, 3, 8, 8), r"not \(1, 3, H, W\)"), ((1, 3, 7, 8), "needs an even height")):
        for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
            dim.dim_value = size
        onnx.save(model, inputs.graph.path)
        with pytest.raises(StageError, match=message) as raised:
            mapper(inputs, tmp_path / f"w{shape[2]}")
        assert raised.value.hint


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"])),
    st.floats(0, 1e6).filter(lambda x: x == 0 or x > 1e-12),
    st.dictionaries(
        st.text("abc:/._ #'\"-", max_size=8), st.dictionaries(st.sampled_from(["ON", "InputType"]), st.just("BPU"))
    ),
)
def test_written_yaml_is_read_back(text: str, number: float, names: dict[str, dict[str, str]]) -> None:
    written = to_yaml({"words": {"text": text, "number": number, "names": names}}, "a comment\non two lines")
    read = yaml.safe_load(written)["words"]
    assert read["text"] == text and read["number"] == number and (read["names"] or {}) == names


@given(st.lists(st.floats(1e-9, 1e4), min_size=1, max_size=3))
def test_numbers_are_joined_with_spaces(values: list[float]) -> None:
    text = join_numbers(values)
    assert "e" not in text and [float(x) for x in text.split(" ")] == values
