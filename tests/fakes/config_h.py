"""Family H's YAML: the schema, then the rules in the order model, input, calibration, compiler, custom operators."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes import schema as s
from tests.fakes.asked import check_named
from tests.fakes.calibration import Samples, data_types, sample_dirs
from tests.fakes.keys import (
    CALIBRATIONS_H,
    DEPRECATED,
    GROUPS_H,
    LEVELS_H,
    MARCHES_H,
    PAIRS,
    REMOVABLE,
    RUN_TIME,
    SCHEMA_H,
    TRAIN,
)
from tests.fakes.models import Network, load, reshaped
from tests.fakes.quant_config import check_quant_config
from tests.fakes.say import Log, Refused
from tests.fakes.schema import Config, names, per_input
from tests.fakes.world import absolute, lexical


@dataclass
class Input:
    """One input of the model as the YAML has it."""

    name: str
    shape: list[int]
    train: str
    rt: str
    layout: str | None
    source: str = "ddr"


@dataclass
class Job:
    """A YAML that holds, with its model loaded. ``base`` is the YAML's folder: calibration folders start there."""

    march: str
    network: Network
    working_dir: Path
    prefix: str
    config: Config
    base: Path
    inputs: list[Input] = field(default_factory=list)
    samples: list[Samples] = field(default_factory=list)
    calibration: str = "skip"
    quant_config: dict[str, Any] = field(default_factory=dict)
    level: str = "O2"
    core_num: int = 1
    custom: bool = False


def read(given: str, log: Log) -> Job:
    """Read and validate, saying what the tool says on the way."""
    loaded = s.read_yaml(absolute(given))
    if isinstance(loaded, dict):
        loaded = {**{g: {} for g in GROUPS_H[:4] if g not in loaded}, **loaded}
    config = s.check(loaded, SCHEMA_H, GROUPS_H[:1])
    job = _model(config, lexical(given).parent, log)
    _inputs(job, log)
    _calibration(job, log)
    compiler(job, log)
    _custom(job)
    for group, keys in DEPRECATED.items():
        for key in keys:
            if key in config.get(group, {}) and key not in ("norm_type", "cal_data_type"):
                log.at("params_parser", 1100).warning(f"Please note that the parameter '{key}' has been deprecated.")
    return job


def check_march(march: str) -> None:
    """Refuse a march that the compiler does not have."""
    if march not in MARCHES_H:
        raise Refused(
            f"The specified march '{march}' is invalid, the march parameter only supports values in {list(MARCHES_H)}"
        )


def _model(config: Config, base: Path, log: Log) -> Job:
    model = config["model_parameters"]
    if "onnx_model" in model and ("caffe_model" in model or "prototxt" in model):
        raise Refused("Only one of onnx_model and caffe_model can be specified")
    if "onnx_model" not in model:
        if "caffe_model" in model and "prototxt" in model:
            raise SystemExit("fake: caffe models are not imitated")
        raise Refused("Key 'model_parameters' error:\nMissing key: 'onnx_model'", s.PARSE_FAILED)
    path = absolute(model["onnx_model"])
    log.at("params_parser", 1142).info(f"Using abs path {path}")
    network = load(path)
    log.info(f"Using the onnx model file: {path}")
    log.at("onnx_parser", 39).info(f"Model input names: {list(network.inputs)}")
    log.at("params_parser", 188).info(f"Model has {len(network.inputs)} inputs according to model file")
    check_march(model["march"])
    prefix = model.get("output_model_file_prefix", "model")
    if not prefix:
        raise Refused(
            "The output_model_file_prefix cannot be empty, please specify a valid prefix in your yaml config file"
        )
    working = absolute(model.get("working_dir", "./model_output"))
    if not working.exists():
        log.info(f"The working_dir does not exist. Create working_dir: {working}")
        working.mkdir(parents=True)
    unknown = [t for t in names(model.get("remove_node_type")) if t not in REMOVABLE]
    if unknown:
        raise Refused(f"Unsupport removing {unknown} now")
    check_named(names(model.get("output_nodes")), network, "output_nodes")
    info = model.get("node_info", {})
    check_named(info if isinstance(info, dict) else [p.rpartition(":")[0] for p in names(info)], network, "node_info")
    return Job(model["march"], network, working, prefix, config, base)


def _inputs(job: Job, log: Log) -> None:
    given, network = job.config["input_parameters"], job.network
    named = names(given.get("input_name"))
    if not named:
        if len(network.inputs) > 1:
            raise Refused("Model has more than one input! It is necessary to explicitly specify all the input_name")
        named = list(network.inputs)
        log.at("params_parser", 392).warning(
            f"The model name is not specified in your yaml file, we use the model name {named} from the model file "
            "by default"
        )
    count = len(network.inputs)
    if len(named) != count:
        raise Refused(
            f"Wrong input_name num received. Num of input_name given: {len(named)} is not equal to input num {count}"
        )
    wrong = [n for n in named if n not in network.inputs]
    if wrong:
        raise Refused(f"Input name {wrong[0]} is not found in model.")
    if given.get("input_shape"):
        shapes = [s.shape_of(t) for t in per_input(given["input_shape"], count, "input_shape")]
        reshaped(network, dict(zip(named, shapes, strict=True)))
    if any(0 in shape for shape in network.inputs.values()):
        raise Refused("The model is a dynamically input model. Please specify the 'input_shape'")
    rt = (
        per_input(given["input_type_rt"], count, "input_type_rt")
        if "input_type_rt" in given
        else ["featuremap"] * count
    )
    train = per_input(given["input_type_train"], count, "input_type_train") if "input_type_train" in given else rt
    layouts: list[str | None] = [None] * count
    if given.get("input_layout_train"):
        layouts = [*per_input(given["input_layout_train"], count, "input_layout_train")]
    job.inputs = [
        Input(n, network.inputs[n], t, r, lay) for n, t, r, lay in zip(named, train, rt, layouts, strict=True)
    ]
    for i, it in enumerate(job.inputs):
        _types(i, it)
        _range(i, it, job)
    _norms(job, log)
    _separate(job)


def _types(index: int, it: Input) -> None:
    s.one_of(it.train, TRAIN, "input_type_train")
    s.one_of(it.rt, RUN_TIME, "input_type_rt")
    if it.rt == it.train == "featuremap":
        return
    if len(it.shape) != 4:
        raise Refused(
            f"The specified input_type_rt is {it.rt}, but the input_shape is not four-dimensional, "
            "please set the input_type_rt and input_type_train to featuremap"
        )
    if it.rt not in PAIRS[it.train]:
        raise Refused(
            f"The specified input_type_train '{it.train}' of the input {index} is not supported "
            f"to be transformed to input_type_rt '{it.rt}' now"
        )
    if it.layout is None:
        raise Refused("This model has non-featuremap inputs, please specify the input_layout_train")
    s.one_of(it.layout, ["NCHW", "NHWC"], "input_layout_train")
    channels, size = (it.shape[1], it.shape[2:]) if it.layout == "NCHW" else (it.shape[3], it.shape[1:3])
    if it.train == "gray" and channels != 1:
        raise Refused(f"The specified input_type_train is gray, but the channel dim of input_shape {it.shape} is not 1")
    if it.train != "gray" and channels != 3:
        raise Refused(
            f"The specified input_layout_train is: {it.layout}, but the channel dim of input_shape {it.shape} is not 3"
        )
    if it.rt == "nv12" and any(n % 2 for n in size):
        raise Refused(f"The input shape: {it.shape} is invalid, nv12 type does not support odd number input size")


def _range(index: int, it: Input, job: Job) -> None:
    given = job.config["input_parameters"].get("input_space_and_range")
    if not given:
        return
    value = per_input(given, len(job.inputs), "input_space_and_range")[index]
    s.one_of(value, ["regular", "bt601_video"], "input_space_and_range")
    if value == "bt601_video" and it.rt != "nv12":
        raise Refused(f"The specified input_space_and_range: {value} and input_type_rt {it.rt} combination is invalid")


def _norms(job: Job, log: Log) -> None:
    given = job.config["input_parameters"]
    if "norm_type" in given:
        log.at("params_parser", 647).warning(
            "Please note that the parameter norm_type has been deprecated and will be determined by the specification "
            "of the mean/scale/std parameters"
        )
    if given.get("scale_value") not in (None, "") and given.get("std_value") not in (None, ""):
        raise Refused("Only one of scale_value and std_value can be specified")
    for key in ("mean_value", "scale_value", "std_value"):
        if given.get(key) in (None, ""):
            continue
        values = per_input(given[key], len(job.inputs), key)
        for i, (it, text) in enumerate(zip(job.inputs, values, strict=True)):
            if text == "None":
                continue
            if it.rt == "featuremap":
                raise Refused(f"The input_type_rt {i} is featuremap, configuration of mean/scale/std is not supported")
            if len(s.floats(text, key, commas=True)) not in (1, 1 if it.train == "gray" else 3):
                raise Refused(f"Wrong format of {key} {text} specified, please refer to user manual")


def _separate(job: Job) -> None:
    given = job.config["input_parameters"]
    if given.get("separate_batch") and given.get("separate_name"):
        raise Refused("Only one of separate_batch and separate_name can be specified")
    batch = given.get("input_batch", 1)
    if batch < 1:
        raise Refused(f"The specified input_batch {batch} is invalid")
    if "input_batch" in given and any(i.shape[0] != 1 for i in job.inputs):
        raise Refused("*** ERROR-OCCUR-DURING hbdk.insert_split ***, error message: the first dimension must be 1")


def _calibration(job: Job, log: Log) -> None:
    given = job.config["calibration_parameters"]
    kind = given.get("calibration_type", "")
    s.one_of(kind, CALIBRATIONS_H, "calibration_type")
    percentile = given.get("max_percentile")
    if percentile is not None and not 0 <= percentile <= 1:
        raise Refused(f"The specified max_percentile {percentile} is invalid, avaliable range: 0~1")
    for key in ("run_on_cpu", "run_on_bpu"):
        check_named(names(given.get(key)), job.network, key)
    known = ("set_model_output_int8", "set_model_output_int16", "set_all_nodes_int16", "run_fast")
    for word in filter(None, (w.strip() for w in given.get("optimization", "").replace(";", ",").split(","))):
        if word not in known:
            raise Refused(f"The specified optimization '{word}' is invalid")
    job.quant_config = _quant_config(given.get("quant_config"), job)
    if not names(given.get("cal_data_dir")) or kind == "skip":
        if kind != "skip":
            log.info("The calibration dataset has not been specified, the calibration method is modified to skip")
        return
    job.calibration = kind or "default"
    resolved = ";".join(str(job.base / d) for d in names(given["cal_data_dir"]))
    dirs = sample_dirs(resolved, len(job.inputs))
    if "cal_data_type" in given:
        log.at("params_parser", 802).warning(
            "Please note that the parameter 'cal_data_type' has been deprecated. "
            "Please switch the calibration dataset to npy."
        )
        data_types(given["cal_data_type"], dirs, log)
    job.samples = [Samples(i.name, i.shape, d, "") for i, d in zip(job.inputs, dirs, strict=True)]


def _quant_config(given: Any, job: Job) -> dict[str, Any]:
    if not given:
        return {}
    if isinstance(given, str):
        path = absolute(given)
        if not path.is_file():
            raise Refused(f"The {path} does not exist.")
        try:
            given = json.loads(path.read_text())
        except json.JSONDecodeError as problem:
            raise Refused(f"ValueError: quant_config {path}: {problem}") from problem
    check_quant_config(given, job.network)
    found: dict[str, Any] = given
    return found


def compiler(job: Job, log: Log) -> None:
    """Check the compiler's parameters."""
    given = job.config["compiler_parameters"]
    job.level = given.get("optimize_level", "O2")
    s.one_of(job.level, LEVELS_H, "optimize_level")
    mode = given.get("compile_mode", "latency")
    if mode not in ("bandwidth", "latency", "balance"):
        allowed = ["bandwidth", "latency", "balance"]
        raise Refused(f"The specified compile_mode {mode} is invalid, it can only be specified as values in {allowed}")
    factor = given.get("balance_factor")
    if mode == "balance" and factor is None:
        raise Refused("Parameter compile_mode is set to balance, please set balance_factor to use this mode")
    if factor is not None and not 0 <= factor <= 100:
        raise Refused(
            f"The specified balance_factor {factor} is invalid, it can only be specified as values in range 0-100"
        )
    job.core_num = check_cores(given.get("core_num", 1), job.march)
    slice_us = given.get("max_time_per_fc", 0)
    if slice_us != 0 and not 1000 <= slice_us <= 10000000:
        raise Refused("The specified max_time_per_fc is invalid, it can only be specified as 0 or range 1000-10000000")
    l2m = given.get("max_l2m_size", 0)
    if not 0 <= l2m <= 25165824:
        raise Refused(
            f"The specified max_l2m_size {l2m} is invalid, it can only be specified as values in range 0-25165824"
        )
    if l2m and job.march not in ("nash-h", "nash-p", "nash-starry-p"):
        raise Refused(f"The specified march {job.march} does not support setting max_l2m_size")
    if given.get("jobs", 16) < 1:
        raise Refused(f"Wrong jobs {given['jobs']} specified, it must be a positive integer")
    if given.get("advice", 0.0) < 0:
        raise Refused("The parameter advice must be a positive integer")
    extra = [k for k in given.get("extra_params", {}) if k not in ("input_no_padding", "output_no_padding")]
    if extra:
        raise Refused(f"Wrong key {extra[0]!r} in extra_params")
    _cache(given)
    _sources(given.get("input_source", {}), job, log)


def check_cores(cores: int, march: str) -> int:
    """Refuse a number of cores that the march does not have."""
    if cores < 1:
        raise Refused(f"Wrong core_num {cores} specified, it must be a positive integer")
    allowed = [1, 2, 3, 4] if march in ("nash-p", "nash-h") else [1]
    if cores not in allowed:
        raise Refused(f"Wrong core_num {cores} specified, it can only be specified as values in range {allowed}")
    return cores


def _cache(given: dict[str, Any]) -> None:
    mode = given.get("cache_mode", "disable")
    allowed = ["enable", "force_overwrite", "disable"]
    if mode not in allowed:
        raise Refused(f"The specified cache_mode {mode} is invalid, it can only be specified as values in {allowed}")
    if mode != "disable" and not given.get("cache_path"):
        raise Refused("The cache_path must be specified when the cache_mode is not disable")
    if given.get("cache_path") and not absolute(given["cache_path"]).is_dir():
        raise Refused(
            f"The specified cache_path {given['cache_path']} does not exist, please create it before compilation"
        )


def _sources(sources: dict[str, Any], job: Job, log: Log) -> None:
    for name in sources:
        if name not in job.network.inputs:
            raise Refused(f"Input name {name} is not found in model.")
    for it in job.inputs:
        it.source = sources.get(it.name, "pyramid" if it.rt in ("nv12", "gray") else "ddr")
        s.one_of(it.source, ["ddr", "pyramid", "resizer"], "input_source")
        if it.source != "ddr" and it.rt not in ("nv12", "gray"):
            stage = "insert_image_convert" if it.source == "pyramid" else "insert_roi_resize"
            raise Refused(
                f"*** ERROR-OCCUR-DURING hbdk.{stage} ***, error message: "
                f"input_type_rt {it.rt} is not supported by input_source {it.source}"
            )
        if it.name not in sources:
            log.at("params_parser", 916).info(
                f"The input node {it.name}'s input_source is not be specified, it will be specified as None by default"
            )


def _custom(job: Job) -> None:
    given = job.config.get("custom_op")
    if given is None:
        return
    if given["custom_op_method"] != "register":
        raise Refused(f"Your specified custom op method {given['custom_op_method']} is invalid")
    folder = absolute(given["custom_op_dir"])
    if not folder.is_dir() or not all((folder / f).is_file() for f in names(given["op_register_files"])):
        raise Refused(
            "*** ERROR-OCCUR-DURING hmct.custom.op_registration.op_register ***, error message: "
            f"{given['op_register_files']} does not exist in {folder}"
        )
    job.custom = True
