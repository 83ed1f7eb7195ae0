"""A strict fake of ``hb_compile`` 3.3.22: config, fast-perf, check and bc mode.

It reads the model, the YAML and the calibration data for real; figures of accuracy and time are made up.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import NoReturn

from tests.fakes.say import Log, Options, Refused, fault, options, usage
from tests.fakes.world import guard

VERSION = "3.3.22"
HBDK, HMCT = "4.2.11", "2.4.1"
_OPTIONS = {
    "--config": 1,
    "--model": 1,
    "--march": 1,
    "--fast-perf": 0,
    "--input-shape": 2,
    "--core-num": 1,
    "--skip": 1,
}
_OPTIONS |= {"--proto": 1}
_SHORT = {"-c": "--config", "-m": "--model", "-i": "--input-shape"}


def main(argv: list[str]) -> int:
    """Run once; return the exit status, 255 on any failure."""
    if argv[:1] == ["--version"]:
        print(f"hb_compile, version {VERSION}")
        return 0

    def wrong(text: str) -> NoReturn:
        usage("hb_compile", "", text)

    given = options(argv, _OPTIONS, _SHORT, wrong)
    if given.one("--skip") not in (None, "export", "convert", "compile"):
        wrong(f"Invalid value for '--skip': '{given.one('--skip')}' is not one of 'export', 'convert', 'compile'.")
    if not (given.one("--core-num") or "1").lstrip("-").isdigit():
        wrong(f"Invalid value for '--core-num': '{given.one('--core-num')}' is not a valid integer.")
    log = Log(Path("hb_compile.log"))
    log.at("tool_utils", 80).info(f"The log will be stored in {Path.cwd() / log.path}")
    log.at("hb_compile", 280).info("Start hb_compile...")
    for name, version in (("hbdk", HBDK), ("hmct", HMCT), ("hb_compile", VERSION)):
        log.info(f"{name} version: {version}")
    try:
        working = _run(given, log)
    except Refused as refused:
        for line in (*refused.warnings, *refused.errors):
            log.at("hb_compile", 420).error(line)
        return 255
    log.at("hb_compile", 215).info("The hb_compile completes running.")
    shutil.copy(log.path, working / log.path.name)
    return 0


def _run(given: Options, log: Log) -> Path:
    config, model = given.one("--config"), given.one("--model")
    if given.has("--fast-perf"):
        if config is not None:
            raise Refused(f"The fast-perf mode is turned on, the incoming config file {config} cannot be used.")
        if model is None:
            raise Refused("The model file is missing, please specify the -m/--model parameter.")
        if not model.endswith((".onnx", ".caffemodel")):
            raise Refused("The --fast-perf mode only supports the .onnx and .caffemodel model.")
        return _without_yaml(given, model, log, fast=True)
    if config is None and model is None:
        raise Refused(
            "The model file or config file is missing, please specify either -m/--model or -c/--config parameter."
        )
    if model is not None and model.endswith(".bc"):
        return _from_bc(given, model, log)
    if config is not None and given.has("--core-num"):
        raise Refused("The --core-num option is only available with check/fast-perf mode.")
    if config is not None and model is not None:
        raise Refused(f"The model {model} is invalid. Only models with .bc suffixes are supported.")
    if config is not None:
        return _from_yaml(given, config, log)
    assert model is not None
    if not model.endswith((".onnx", ".caffemodel", ".caffe")):
        raise Refused(
            f"The current model {model} is not the onnx or caffe model, "
            "please specify the config file and re-execute hb_compile."
        )
    return _without_yaml(given, model, log, fast=False)


def _from_yaml(given: Options, config: str, log: Log) -> Path:
    from tests.fakes.calibration import load_npy
    from tests.fakes.config_h import read

    log.at("hb_compile", 33).info("Start verifying yaml")
    fault("verify")
    job = read(config, log)
    log.at("hb_compile", 36).info("End verifying yaml")
    data = load_npy(job.samples, log) if job.samples else {}
    from tests.fakes.build_h import build, quantize

    quantize(job, data, log)
    build(job, log, given.one("--skip"))
    return job.working_dir


def _march(given: Options) -> str:
    from tests.fakes.config_h import check_march

    march = given.one("--march")
    if march is None:
        raise Refused(
            "The config file or march value is missing, please specify either -c/--config or --march parameter."
        )
    check_march(march)
    return march


def _without_yaml(given: Options, model: str, log: Log, *, fast: bool) -> Path:
    from tests.fakes.build_h import build, quantize
    from tests.fakes.config_h import Input, Job, check_cores
    from tests.fakes.models import load, reshaped
    from tests.fakes.schema import shape_of
    from tests.fakes.world import absolute

    march = _march(given)
    network = load(absolute(model))
    shapes = {name: shape_of(text) for name, text in given.values.get("--input-shape", [])}
    unknown = [n for n in shapes if n not in network.inputs]
    if unknown:
        raise Refused(f"Input name {unknown[0]} is not found in model.")
    reshaped(network, shapes)
    if any(0 in shape for shape in network.inputs.values()):
        raise Refused("The model is a dynamically input model. Please specify the 'input_shape'")
    working = Path("model_output" if fast else ".hb_compile").absolute()
    working.mkdir(exist_ok=True)
    groups = ("model_parameters", "input_parameters", "calibration_parameters", "compiler_parameters")
    job = Job(march, network, working, Path(model).stem, {g: {} for g in groups}, Path.cwd())
    for name, shape in network.inputs.items():
        image = fast and len(shape) == 4 and shape[1] == 3 and not any(n % 2 for n in shape[2:])
        kinds = ("bgr", "nv12", "NCHW", "pyramid") if image else ("featuremap", "featuremap", None, "ddr")
        job.inputs.append(Input(name, shape, *kinds))
    job.level = "O2" if fast else "O0"
    job.core_num = check_cores(int(given.one("--core-num") or 1), march)
    quantize(job, {}, log)
    build(job, log, given.one("--skip"))
    return working


def _from_bc(given: Options, model: str, log: Log) -> Path:
    """Compile a quantized .bc again."""
    from tests.fakes.build_h import compile_hbm
    from tests.fakes.config_h import Input, Job, check_march, compiler
    from tests.fakes.models import Network
    from tests.fakes.products import MAGIC, facts_of
    from tests.fakes.schema import read_yaml
    from tests.fakes.world import absolute

    path = absolute(model)
    if not path.is_file():
        raise Refused(f"The {path} does not exist.")
    if not path.read_bytes().startswith(MAGIC["bc"]):
        raise Refused("*** ERROR-OCCUR-DURING hbdk.load ***, error message: not a bc file")
    facts = facts_of(path)
    config = read_yaml(absolute(given.one("--config") or "")) if given.has("--config") else {}
    march = config.get("model_parameters", {}).get("march") or _march(given)
    check_march(march)
    working = absolute(config.get("model_parameters", {}).get("working_dir", "./model_output"))
    working.mkdir(parents=True, exist_ok=True)
    prefix = config.get("model_parameters", {}).get("output_model_file_prefix", path.stem)
    network = Network(path, _nothing(), facts["inputs"], [], 0)
    groups = {"compiler_parameters": config.get("compiler_parameters", {})}
    job = Job(march, network, working, prefix, groups, Path.cwd())
    job.inputs = [Input(n, s, "featuremap", "featuremap", None) for n, s in facts["inputs"].items()]
    compiler(job, log)
    compile_hbm(job, log, {k: v for k, v in facts.items() if k != "built_ns"}, 0)
    return working


def _nothing() -> object:
    from onnx import ModelProto

    return ModelProto()


if __name__ == "__main__":
    guard()
    fault("start")
    raise SystemExit(main(sys.argv[1:]))
