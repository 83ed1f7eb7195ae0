"""Every key of hb_compile's YAML, and the values that are listed for some of them."""

from __future__ import annotations

from tests.fakes.schema import FLAG, FRACTION, NEEDED, NUMBER, NUMBERS, TEXT, Field

REMOVABLE = ("Quantize", "Transpose", "Dequantize", "Cast", "Reshape", "Softmax")
TRAIN = ["rgb", "bgr", "yuv444", "gray", "featuremap"]
PAIRS = {
    "rgb": ("rgb", "bgr", "yuv444", "nv12"),
    "bgr": ("bgr", "rgb", "yuv444", "nv12"),
    "yuv444": ("yuv444", "nv12"),
    "gray": ("gray",),
    "featuremap": ("featuremap",),
}
RUN_TIME = ["rgb", "bgr", "yuv444", "nv12", "gray", "featuremap"]


MARCHES_H = ("nash-b", "nash-b-lite", "nash-b-plus", "nash-e", "nash-m", "nash-h", "nash-p", "nash-starry-p")
LEVELS_H = ["O0", "O1", "O2"]
CALIBRATIONS_H = ["kl", "max", "skip", "mix", "default", ""]
GROUPS_H = ("model_parameters", "input_parameters", "calibration_parameters", "compiler_parameters", "custom_op")
DEPRECATED = {
    "model_parameters": ("set_node_data_type", "log_level", "layer_out_dump"),
    "input_parameters": ("input_layout_rt", "norm_type"),
    "calibration_parameters": ("preprocess_on", "cal_data_type"),
    "compiler_parameters": ("hbdk3_compatible_mode",),
}

SCHEMA_H: dict[str, dict[str, Field]] = {
    "model_parameters": {
        **{"onnx_model": TEXT, "caffe_model": TEXT, "prototxt": TEXT, "march": NEEDED, "working_dir": TEXT},
        **{"output_model_file_prefix": TEXT, "output_nodes": TEXT, "remove_node_type": TEXT, "remove_node_name": TEXT},
        **{"node_info": Field((str, dict)), "set_node_data_type": TEXT, "debug_mode": TEXT, "layer_out_dump": FLAG},
        **{"enable_vpu": FLAG, "enable_spu": FLAG, "log_level": TEXT},
    },
    "input_parameters": {
        **{"input_name": TEXT, "input_type_train": TEXT, "input_type_rt": TEXT, "input_layout_train": TEXT},
        **{"input_layout_rt": TEXT, "input_space_and_range": TEXT, "input_shape": TEXT, "input_batch": NUMBER},
        **{"separate_batch": FLAG, "separate_name": TEXT, "norm_type": TEXT},
        **{"mean_value": NUMBERS, "scale_value": NUMBERS, "std_value": NUMBERS},
    },
    "calibration_parameters": {
        **{"cal_data_dir": TEXT, "cal_data_type": TEXT, "preprocess_on": FLAG, "calibration_type": TEXT},
        **{"max_percentile": FRACTION, "per_channel": FLAG, "run_on_cpu": TEXT, "run_on_bpu": TEXT},
        **{"optimization": TEXT, "quant_config": Field((dict, str))},
    },
    "compiler_parameters": {
        **{"compile_mode": TEXT, "balance_factor": NUMBER, "core_num": NUMBER, "optimize_level": TEXT},
        **{"input_source": Field((dict,)), "max_time_per_fc": NUMBER, "jobs": NUMBER, "debug": FLAG},
        **{"advice": FRACTION, "cache_mode": TEXT, "cache_path": TEXT, "max_l2m_size": NUMBER},
        **{"extra_params": Field((dict,)), "hbdk3_compatible_mode": FLAG},
    },
    "custom_op": {"custom_op_method": NEEDED, "op_register_files": NEEDED, "custom_op_dir": NEEDED},
}
