"""Family B's YAML: the whole schema, then the rules in the order in which the tool validates its groups."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes import schema as s
from tests.fakes.asked import Asked, check_named
from tests.fakes.calibration import Samples, data_types, sample_dirs
from tests.fakes.keys import (
    CALIBRATIONS_B,
    GROUPS_B,
    LEVELS_B,
    MARCHES_B,
    NORMS,
    PAIRS,
    REMOVABLE,
    RUN_TIME,
    TRAIN,
    schema_b,
)
from tests.fakes.models import Network, check_inputs, load, reshaped
from tests.fakes.say import Log, Refused
from tests.fakes.schema import Config, names, per_input
from tests.fakes.world import absolute


@dataclass
class Input:
    """One input of the model as the YAML has it."""

    name: str
    shape: list[int]
    train: str
    rt: str
    layout: str
    source: str = "ddr"


@dataclass
class Job:
    """A YAML that holds, with its model loaded."""

    march: str
    network: Network
    working_dir: Path
    prefix: str
    config: Config
    inputs: list[Input] = field(default_factory=list)
    samples: list[Samples] = field(default_factory=list)
    asked: Asked = field(default_factory=Asked)

    def value(self, group: str, key: str, default: Any = None) -> Any:
        """Return one key of the YAML."""
        return self.config.get(group, {}).get(key, default)


def read(path: Path, model_type: str | None, log: Log) -> Job:
    """Read and validate, saying what the tool says on the way."""
    loaded = s.read_yaml(path)
    given = loaded.get("model_parameters") if isinstance(loaded, dict) else None
    caffe = model_type == "caffe" or (
        model_type is None and isinstance(given, dict) and "caffe_model" in given and "onnx_model" not in given
    )
    config = s.check(loaded, schema_b("caffe" if caffe else "onnx"), GROUPS_B)
    if caffe:
        raise SystemExit("fake: caffe models are not imitated")
    steps = (
        ("model_parameters", None),
        ("input_parameters", _inputs),
        ("calibration_parameters", _calibration),
        ("custom_op", _custom),
        ("compiler_parameters", _compiler),
    )
    job = None
    for group, step in steps:
        log.at("mapper_conf_parser", 105).info(f"validating {group}...")
        if job is None:
            job = _model(config, log)
        elif step is not None:
            step(job, log)
        log.at("mapper_conf_parser", 119).info(f"validating {group} finished")
    assert job is not None
    log.info("validating deprecated parameters...")
    if "set_node_data_type" in config["model_parameters"]:
        log.warning("The parameter set_node_data_type is deprecated, please use node_info")
    log.info("validating deprecated parameters finished")
    return job


def _model(config: Config, log: Log) -> Job:
    model = config["model_parameters"]
    march = model["march"]
    if march not in MARCHES_B:
        raise Refused(
            f"The specified march '{march}' is invalid, the march parameter only supports values in {list(MARCHES_B)}"
        )
    path = absolute(model["onnx_model"])
    log.info(f"Using abs path {path}")
    network = load(path)
    log.info(f"Using onnx model file: {path}")
    log.at("onnx_parser", 39).info(f"Model input names: {list(network.inputs)}")
    log.at("mapper_conf_parser", 264).info(f"Model has {len(network.inputs)} inputs according to model file")
    if not model["output_model_file_prefix"]:
        raise Refused(
            "The output_model_file_prefix cannot be empty, please specify a valid prefix in your yaml config file"
        )
    working = absolute(model.get("working_dir", "model_output"))
    if not working.exists():
        log.info(f"working_dir does not exist. Creating working_dir: {working}")
        working.mkdir(parents=True)
    job = Job(march, network, working, model["output_model_file_prefix"], config)
    _removals(job)
    if model.get("debug_mode", "dump_calibration_data") != "dump_calibration_data":
        s.one_of(model["debug_mode"], ["dump_calibration_data"], "debug_mode")
    check_named(names(model.get("output_nodes")), network, "output_nodes")
    _node_info(job)
    return job


def _removals(job: Job) -> None:
    unknown = [t for t in names(job.value("model_parameters", "remove_node_type")) if t not in REMOVABLE]
    if unknown:
        raise Refused(f"Unsupport removing {unknown} now")


def _node_info(job: Job) -> None:
    given = job.value("model_parameters", "node_info")
    if not given:
        return
    if job.march == "bernoulli2":
        raise Refused("The parameter node_info is not supported on bernoulli2")
    if isinstance(given, str):
        pairs = [part.rpartition(":") for part in names(given)]
        given = {name: {"InputType": dtype, "OutputType": dtype} for name, _, dtype in pairs}
    check_named(given, job.network, "node_info")
    for name, info in given.items():
        if not isinstance(info, dict):
            raise Refused(f"The node_info of node {name!r} should be a dict, but {info!r} is given")
        for key, value in info.items():
            _node_key(name, str(key), value)
            if key == "ON":
                job.asked.on[name] = value
            elif key == "OutputType":
                job.asked.dtype[name] = value


def _node_key(name: str, key: str, value: Any) -> None:
    if key == "ON":
        s.one_of(value, ["BPU", "CPU"], f"ON of node {name} in node_info")
    elif key == "OutputType" or re.fullmatch(r"InputType\d*", key):
        s.one_of(value, ["int8", "int16", "float32"], f"{key} of node {name} in node_info")
    else:
        raise Refused(f"Wrong key {key!r} in node_info of node {name!r}")


def _inputs(job: Job, log: Log) -> None:
    given, network = job.config["input_parameters"], job.network
    named = names(given.get("input_name"))
    if not named:
        if len(network.inputs) > 1:
            raise Refused("Model has more than one input! It is necessary to explicitly specify all the input_name")
        named = list(network.inputs)
        log.info(f"Model name not given in yaml_file, using model name from model file: {named}")
    wrong = [n for n in named if n not in network.inputs]
    if wrong:
        raise Refused(f"Input name {wrong[0]} is not found in model.")
    count = len(network.inputs)
    if len(named) != count:
        raise Refused(
            f"Wrong input_name num received. Num of input_name given: {len(named)} is not equal to input num {count}"
        )
    if given.get("input_shape"):
        shapes = [s.shape_of(t) for t in per_input(given["input_shape"], count, "input_shape")]
        reshaped(network, dict(zip(named, shapes, strict=True)))
    else:
        log.info(
            f"Model input shape not given in yaml_file, using shape from model file: {list(network.inputs.values())}"
        )
    check_inputs(network)
    train = per_input(given["input_type_train"], count, "input_type_train")
    rt = per_input(given["input_type_rt"], count, "input_type_rt")
    layouts = per_input(given["input_layout_train"], count, "input_layout_train")
    job.inputs = [
        Input(n, network.inputs[n], t, r, lay) for n, t, r, lay in zip(named, train, rt, layouts, strict=True)
    ]
    for i, it in enumerate(job.inputs):
        _types(i, it, job, log)
    _norms(job)
    if "input_batch" in given:
        _batch(given["input_batch"], job)
    job.asked.images = tuple(i.name for i in job.inputs if i.rt != "featuremap")


def _types(index: int, it: Input, job: Job, log: Log) -> None:
    given = job.config["input_parameters"]
    s.one_of(it.train, TRAIN, "input_type_train")
    s.one_of(it.rt, RUN_TIME, "input_type_rt")
    s.one_of(it.layout, ["NCHW", "NHWC"], "input_layout_train")
    if it.rt not in PAIRS[it.train]:
        raise Refused(
            f"The specified input_type_train '{it.train}' of the input {index} is not supported "
            f"to be transformed to input_type_rt '{it.rt}' now"
        )
    channels, size = (it.shape[1], it.shape[2:]) if it.layout == "NCHW" else (it.shape[3], it.shape[1:3])
    if it.train == "gray" and channels != 1:
        raise Refused(f"The specified input_type_train is gray, but the channel dim of input_shape {it.shape} is not 1")
    if it.train in ("rgb", "bgr", "yuv444") and channels != 3:
        raise Refused(
            f"The specified input_layout_train is: {it.layout}, but the channel dim of input_shape {it.shape} is not 3"
        )
    if it.rt in ("nv12", "yuv444") and any(n % 2 for n in size):
        raise Refused(f"The input shape: {it.shape} is invalid, {it.rt} type does not support odd number input size")
    if it.rt == "nv12":
        log.info("nv12 input type rt received.")
    layouts = names(given.get("input_layout_rt"))
    if layouts and len(layouts) != len(job.inputs):
        per_input(given["input_layout_rt"], len(job.inputs), "input_layout_rt")
    if layouts:
        s.one_of(layouts[index], ["NCHW", "NHWC"], "input_layout_rt")
        if job.march == "bernoulli2" and it.rt == "yuv444" and layouts[index] == "NCHW":
            raise Refused(
                f"Input {index} has input_type_rt yuv444 with input_layout_rt NCHW "
                "is not supported on bernoulli2 for now."
            )
    ranges = given.get("input_space_and_range")
    if ranges:
        value = per_input(ranges, len(job.inputs), "input_space_and_range")[index]
        s.one_of(value, ["regular", "bt601_video"], "input_space_and_range")
        if value == "bt601_video" and it.rt != "nv12":
            raise Refused(
                f"The specified input_space_and_range: {value} and input_type_rt {it.rt} combination is invalid"
            )


def _norms(job: Job) -> None:
    given, count = job.config["input_parameters"], len(job.inputs)
    norms = per_input(given["norm_type"], count, "norm_type")
    for key, uses in (("mean_value", ("data_mean", "data_mean_and_scale")), ("scale_value", ("data_scale", NORMS[3]))):
        values = per_input(given[key], count, key) if key in given else ["None"] * count
        for i, (it, norm, text) in enumerate(zip(job.inputs, norms, values, strict=True)):
            s.one_of(norm, NORMS, "norm_type")
            if it.rt == "featuremap" and (norm != "no_preprocess" or text != "None"):
                raise Refused(f"The input_type_rt {i} is featuremap, configuration of mean/scale/std is not supported")
            if (norm in uses) != (text != "None"):
                state = "is not specified" if text == "None" else "is specified"
                raise Refused(f"The specified norm_type of the input {i} is {norm}, but {key} {state}")
            if text != "None":
                channels = it.shape[1] if it.layout == "NCHW" else it.shape[3]
                if len(s.floats(text, key, commas=False)) not in (1, channels):
                    raise Refused(f"Wrong format of {key} {text} specified, please refer to user manual")


def _batch(batch: int, job: Job) -> None:
    if not 1 <= batch <= 128:
        raise Refused(f"The specified input_batch {batch} is invalid, available range: 1-128")
    if len(job.inputs) > 1:
        raise Refused("The parameter input_batch only supports models with a single input")


def _calibration(job: Job, log: Log) -> None:
    given = job.config["calibration_parameters"]
    kind = given["calibration_type"]
    s.one_of(kind, CALIBRATIONS_B, "calibration_type")
    if "max_percentile" in given:
        if not 0 <= given["max_percentile"] <= 1:
            raise Refused(f"The specified max_percentile {given['max_percentile']} is invalid, avaliable range: 0~1")
        if kind != "max":
            raise Refused(f"The parameter max_percentile can only be used with calibration_type max, but got {kind}")
    if given.get("per_channel") and kind == "default":
        raise Refused("The parameter per_channel cannot be used with calibration_type default")
    for key, on in (("run_on_cpu", "CPU"), ("run_on_bpu", "BPU")):
        check_named(names(given.get(key)), job.network, key)
        job.asked.on |= dict.fromkeys(names(given.get(key)), on)
    _optimizations(given.get("optimization", ""), job)
    if kind in ("load", "skip"):
        return
    count = len(job.inputs)
    dirs = sample_dirs(given.get("cal_data_dir"), count)
    types = data_types(given.get("cal_data_type"), dirs, log)
    pictures = bool(given.get("preprocess_on"))
    job.samples = [Samples(i.name, i.shape, d, t, pictures) for i, d, t in zip(job.inputs, dirs, types, strict=True)]


def _optimizations(text: str, job: Job) -> None:
    for word in filter(None, (w.strip() for w in text.split(","))):
        general = re.fullmatch(r"set_([A-Z]\w*)_(input|output)_(int8|int16)", word)
        known = re.fullmatch(r"set_model_output_(int8|int16)|set_all_nodes_int16", word)
        if not (general or known):
            raise Refused(f"The specified optimization '{word}' is invalid")
        if job.march == "bernoulli2" and word.endswith("int16"):
            raise Refused(f"The specified optimization '{word}' is not supported on bernoulli2")
        job.asked.softmax_on_bpu |= bool(general and general[1] == "Softmax" and job.march != "bernoulli2")
        job.asked.all_int16 |= word == "set_all_nodes_int16"


def _custom(job: Job, log: Log) -> None:
    given = job.config.get("custom_op")
    if given is None:
        log.info("custom_op does not exist, skipped")
        return
    if given["custom_op_method"] != "register":
        raise Refused(f"Your specified custom op method {given['custom_op_method']} is invalid")
    folder = absolute(given["custom_op_dir"])
    if Path(given["custom_op_dir"]).is_absolute() or not folder.is_dir():
        raise Refused(f"The specified custom_op_dir {given['custom_op_dir']} does not exist")
    for name in names(given["op_register_files"]):
        if not (folder / name).is_file() and not absolute(name).is_file():
            raise Refused(f"{name} does not exist in {folder}.")
    job.asked.custom = True


def _compiler(job: Job, log: Log) -> None:
    given = job.config["compiler_parameters"]
    s.one_of(given["compile_mode"], ["latency", "bandwidth"], "compile_mode")
    s.one_of(given["optimize_level"], LEVELS_B, "optimize_level")
    allowed = [1, 2] if job.march == "bernoulli2" else [1]
    if given.get("core_num", 1) not in allowed:
        raise Refused(
            f"Wrong core_num {given['core_num']} specified, it can only be specified as values in range {allowed}"
        )
    slice_us = given.get("max_time_per_fc", 0)
    if slice_us != 0 and not 1000 <= slice_us <= 4294967295:
        raise Refused(
            "The specified max_time_per_fc is invalid, it can only be specified as 0 or range 1000-4294967295"
        )
    if given.get("jobs", 1) < 1:
        raise Refused(f"Wrong jobs {given['jobs']} specified, it must be a positive integer")
    sources = given.get("input_source", {})
    for name in sources:
        if name not in job.network.inputs and name != "_default_value":
            raise Refused(f"Input name {name} is not found in model.")
    for it in job.inputs:
        it.source = sources.get(it.name, "pyramid" if it.rt in ("nv12", "gray") else "ddr")
        s.one_of(it.source, ["ddr", "pyramid", "resizer"], "input_source")
        if it.source != "ddr" and it.rt not in ("nv12", "gray"):
            raise Refused(f"The specified input_source {it.source} does not support input_type_rt {it.rt}")
        size = it.shape[2:] if it.layout == "NCHW" else it.shape[1:3]
        if it.source == "resizer" and size[0] * size[1] >= 18432:
            raise Refused(f"The input_source resizer needs h*w < 18432, but the input shape is {it.shape}")
        if it.name not in sources:
            log.at("mapper_conf_parser", 1157).info(
                f"Input node {it.name}'s input_source not set, it will be set to {it.source} by default"
            )


def dumped(config: Config) -> str:
    """Return the configuration as the tool dumps it, keys in order."""
    import yaml

    text: str = yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=True)
    return text
