"""Every failure that the vendors' documents print is known, and says what to change."""

from __future__ import annotations

import pytest

from bpudeploy.backends.horizon.failures import KNOWN, explain

PRINTED = {
    "The opset version of the onnx model is 13, only model with opset_version 10/11 is supported": "report it",
    "The opset version of the model is 13, the maximum supported version is 11.": "report it",
    "Key 'model_parameters' error:": "docs/vendor-tools.md",
    "Missing keys: 'caffe_model', 'prototxt'": "docs/vendor-tools.md",
    "yaml file parse failed. Please double check your input": "docs/vendor-tools.md",
    "The shape of model input:input is [0, 3, 2, 2] which has dimensions of 0. Please": "image_size",
    "Conv only support 4 dim input": "4-D form",
    "tool limits for max output num is 32": "model.layers",
    "HorizonRT not support these cpu operators: Einsum": "bpudeploy inspect",
    "nodes:['X'] are specified as domain:D, which are not supported by official onnx.": "model.onnx",
    "There is no node can execute on BPU in this model, please make sure the model has at least one conv": "inspect",
    "cannot reshape array of size 3 into shape 4": "calibration files",
    "load cal data for input X error": "calibration files",
    "hbdk-cc compile hbir model failed with returncode -9": "compile.TOOL.optimize_level",
    "The specified optimize_level 'O3' is invalid, it can only be specified as values in ['O0']": "optimize_level",
    "The specified march 'x' is invalid": "container of this board",
    "Wrong core_num 2 specified": "compile.TOOL.core_num",
    "nv12 type does not support odd number input size": "input_type_rt: rgb",
    "Wrong cal_data_dir num received": "report it",
    "The specified cal_data_dir X does not exist": "report it",
    "Only one of scale_value and std_value can be specified": "report it",
    "It is necessary to explicitly specify all the input_name": "report it",
    "The model is a dynamically input model. Please specify the 'input_shape'": "image_size",
    "This model has non-featuremap inputs, please specify the input_layout_train": "report it",
    "Parameter compile_mode is set to balance, please set balance_factor": "balance_factor",
    "*** ERROR-OCCUR-DURING hbdk.compile ***": "optimize_level",
    "OSError: [Errno 28] No space left on device": "--store",
    "MemoryError": "compile.TOOL.memory_gib",
}


@pytest.mark.parametrize("text", PRINTED)
def test_it_is_known(text: str) -> None:
    tail = ["INFO Start Model Convert....", f"ERROR {text}", "ERROR exception in command: makertbin"]
    found = explain(tail, "TOOL")
    assert found is not None and found[0] == text and PRINTED[text] in found[1]


def test_harmless_lines_explain_nothing() -> None:
    harmless = [
        "INFO Reset batch_size=1 and execute forward again...",
        "INFO Layer X will be executed on CPU",
        "WARNING got unexpected input threshold on conv X! value: 3",
    ]
    assert explain(harmless, "TOOL") is None
    assert explain([], "TOOL") is None
    assert explain(["INFO calibration_type max, max_percentile 1.0", *["INFO working"] * 5], "TOOL") is None


def test_every_fix_can_be_filled_in() -> None:
    assert all(failure.fix.format(tool="hb_mapper") for failure in KNOWN)
