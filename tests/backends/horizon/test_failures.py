"""Every known message of the tools has a reason and a fix."""

from __future__ import annotations

import pytest

from bpudeploy.backends.horizon.failures import KNOWN_FAILURES, explain

DURING = "*** ERROR-OCCUR-DURING {horizon_nn.build_onnx} ***, error message: "
PRINTED = {
    # hb_mapper 1.24.3, each met
    DURING + "The opset version of the model is 17, the maximum supported version is 11.": "report it",
    DURING + "The ir version of the model is 10, which is greater than the maximum supported ir version": "report it",
    "The input_shape [1, 3, 0, 8] of the model is a dynamic shape. Please configure": "image_size",
    DURING + "The onnx model is invalid (shape_inference or model_check failed).": "own check of the network",
    DURING + "unsupported domain detected in model": "model.onnx",
    "cannot reshape array of size 192 into shape (2,3,8,8)": "calibration files",
    "Directory /work/cal_f32 is empty, please check calibration pics": "calibration files",
    "User input march invalid: 'nash-e' . It should in list ['bernoulli2']": "tool for this board",
    DURING + "Unsupported datatype settings for march bernoulli/bernoulli2: int16": "X3 has no int16",
    DURING + "ERROR: The optimization parameter: fast is not supported by BPU March": "compile.TOOL.optimization",
    "The format you gave is Input,currently we only support ON、OutputType and InputType": "precisions do not fit",
    "Currently only support is ['int8', 'int16']": "precisions do not fit",
    DURING + "Unsupported config key in node_config: InputType7": "precisions do not fit",
    "*** ERROR-OCCUR-DURING {hbdk.hbdk-cc} ***, error message: unsupported model: BAYES not support execute one model "
    "on 2 core simultaneously now.": "core_num",
    "Wrong core num setting given, 3 should in range [1, 2]": "core_num",
    "User input optimize_level invalid, 'O4' should in list ['O0', 'O1', 'O2', 'O3']": "optimize_level",
    "Parameter compile_mode is set to balance, please set balance_factor to use this mode": "balance_factor",
    "Input_layout_rt missing. input 0 input_type_rt is: rgb. input_layout_rt is required": "report it",
    "Invalid nv12 input shape: [1, 3, 8, 7], nv12 type does not support odd size": "input_type_rt: rgb",
    "Cal_data_dir does not exist: /work/cal_f32": "report it",
    "Invalid max_percentile: 99.99, avaliable range: 0~1": "calibration_type: max",
    "*** ERROR-OCCUR-DURING {runtime.runtime_model_generation} ***, error message: HorizonRT not support these cpu "
    "operators: Det": "bpudeploy inspect",
    "error message: GlobalAveragePool only support 4 dim input": "bpudeploy inspect",
    "*** ERROR-OCCUR-DURING {hbdk.hbdk-perf} ***, error message: ERROR: Fail to write a.json No space left on device": (
        "--store"
    ),
    DURING + "There is a Pass Error occured:": "report it to the vendor",
    DURING + "find NaN threshold in q_HzCalibration": "report it to the vendor",
    # hb_compile, from the vendor's notes
    "The specified optimize_level 'O3' is invalid, it can only be specified as values in ['O0']": "optimize_level",
    "The specified march 'x' is invalid": "tool for this board",
    "Wrong core_num 2 specified": "compile.TOOL.core_num",
    "nv12 type does not support odd number input size": "input_type_rt: rgb",
    "Wrong cal_data_dir num received": "report it",
    "Only one of scale_value and std_value can be specified": "report it",
    "The model is a dynamically input model. Please specify the 'input_shape'": "image_size",
    "*** ERROR-OCCUR-DURING hbdk.compile ***": "optimize_level",
    "MemoryError": "compile.TOOL.memory_gib",
}


@pytest.mark.parametrize("text", PRINTED)
def test_a_message_has_its_fix(text: str) -> None:
    found = explain(["yaml file parse failed. Please double check your config file inputs", text], [], "TOOL")
    assert found is not None and found[0] == text and PRINTED[text] in (found[1] or "")


def test_the_last_error_is_the_reason_with_the_lines_that_belong_to_it() -> None:
    last = "Key 'compiler_parameters' error:\nWrong key 'optimise_level' in {'optimize_level': 'O3'}"
    found = explain(["Parse 'compiler_parameters' failed!", last], [], "TOOL")
    assert found is not None and found[0] == "Key 'compiler_parameters' error:; Wrong key 'optimise_level'"
    assert "docs/reference/vendor-tools.md" in (found[1] or ""), "the YAML that it repeats has optimize_level in it"
    assert explain(["something new"], [], "TOOL") == ("something new", None)


def test_if_the_last_error_is_noise_the_one_before_is_the_reason() -> None:
    compiler = (
        "*** ERROR-OCCUR-DURING {hbdk.hbdk-cc} ***, error message: "
        'INFO: "-j" or "--jobs" is not specified, launch 2 threads for optimization\nversion: 3.49.15'
    )
    found = explain(["hbdk-cc compile hbir model failed with returncode -11.", compiler], [], "TOOL")
    assert found is not None and found[0].endswith("returncode -11.") and "optimize_level" in (found[1] or "")


def test_a_tool_that_failed_before_logging_is_explained_by_its_last_lines() -> None:
    found = explain([], ["docker: Error response from daemon: No such image: a:b"], "TOOL")
    assert found is not None and "docker pull" in (found[1] or "")


def test_harmless_lines_explain_nothing() -> None:
    harmless = [
        "INFO Reset batch_size=1 and execute forward again...",
        "INFO Layer X will be executed on CPU",
        "WARNING got unexpected input threshold on conv X! value: 3",
    ]
    assert explain([], harmless, "TOOL") is None
    assert explain([], [], "TOOL") is None
    assert explain([], ["INFO calibration_type max, max_percentile 1.0", *["INFO working"] * 5], "TOOL") is None


def test_every_fix_can_be_formatted() -> None:
    assert all(fix.format(tool="hb_mapper") for _, fix in KNOWN_FAILURES)
