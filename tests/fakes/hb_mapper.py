"""A strict fake of ``hb_mapper`` 1.24.3: it refuses what the documents say is refused, and prints what they print.

It reads the model, the YAML and the calibration data for real; figures of accuracy and time are made up.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tests.fakes.say import Log, Options, Refused, fault, options, usage
from tests.fakes.world import guard

VERSION = "1.24.3"
HBDK, NN = "3.49.15", "1.1.0"
_CHECKER = {"--model-type": 1, "--march": 1, "--model": 1, "--proto": 1, "--output": 1, "--input-shape": 2}
_MAKERTBIN = {"--config": 1, "--model-type": 1, "--fast-perf": 0, "--model": 1, "--march": 1, "--proto": 1}


def main(argv: list[str]) -> int:
    """Run one command; return the exit status."""
    if argv[:1] == ["--version"]:
        print(f"hb_mapper, version {VERSION}")
        return 0
    commands: dict[str, Callable[[Options, Log], None]] = {"checker": _checker, "makertbin": _makertbin}
    if not argv or argv[0] not in commands:
        usage("hb_mapper", "", f"No such command '{argv[0]}'." if argv else "Missing command.")
    command = argv[0]

    def wrong(text: str) -> NoReturn:
        usage("hb_mapper", command, text)

    given = options(argv[1:], _CHECKER if command == "checker" else _MAKERTBIN, {"-c": "--config"}, wrong)
    kind = given.one("--model-type")
    if kind not in (None, "onnx", "caffe"):
        wrong(f"Invalid value for '--model-type': '{kind}' is not one of 'caffe', 'onnx'.")
    needed = ("--config",) if command == "makertbin" and not given.has("--fast-perf") else ("--march", "--model")
    for option in needed:
        if not given.has(option):
            wrong(f"Missing option '{option}'.")
    old = os.environ.get("FAKE_HB_TABLE", "").endswith("old")
    log = Log(Path(f"hb_mapper_{command}.log"), old=old)
    log.info(f"log will be stored in {Path.cwd() / log.path}")
    log.at("hb_mapper", 132).info("Start hb_mapper....")
    for name, version in (("hbdk", HBDK), ("horizon_nn", NN), ("hb_mapper", VERSION)):
        log.info(f"{name} version {version}")
    try:
        commands[command](given, log)
    except Refused as refused:
        for line in refused.warnings:
            log.warning(line)
        for line in refused.errors:
            log.error(line)
        log.error(f"exception in command: {command}")
        return 1
    return 0


def _march(given: Options) -> str:
    from tests.fakes.keys import MARCHES_B

    march = given.one("--march") or ""
    if march not in MARCHES_B:
        allowed = ", ".join(repr(m) for m in MARCHES_B)
        usage("hb_mapper", "", f"Invalid value for '--march': '{march}' is not one of {allowed}.")
    return march


def _checker(given: Options, log: Log) -> None:
    from tests.fakes.asked import Asked
    from tests.fakes.build_b import Build
    from tests.fakes.models import check_inputs, load, reshaped
    from tests.fakes.schema import shape_of
    from tests.fakes.world import absolute

    march = _march(given)
    log.at("hb_mapper_checker", 60).info(f"Model type: {given.one('--model-type') or 'onnx'}")
    if given.one("--model-type") == "caffe":
        raise SystemExit("fake: caffe models are not imitated")
    if given.has("--output"):
        log.warning("The parameter --output is deprecated")
    shapes = {name: shape_of(text) for name, text in given.values.get("--input-shape", [])}
    log.info(f"input names {list(shapes)}")
    log.info(f"input shapes {shapes}")
    log.info("Begin model checking....")
    network = load(absolute(given.one("--model") or ""))
    unknown = [n for n in shapes if n not in network.inputs]
    if unknown:
        raise Refused(f"Input name {unknown[0]} is not found in model.")
    reshaped(network, shapes)
    hidden = Path(".hb_check")
    hidden.mkdir(exist_ok=True)
    build = Build(march, network, Asked(), hidden, "", log, level="O0", check_inputs=lambda: check_inputs(network))
    build.run({}, "max", "checker-new")
    log.info(f"ONNX model output num : {len(network.outputs)}")
    log.at("hb_mapper_checker", 180).info("End model checking....")


def _makertbin(given: Options, log: Log) -> None:
    if given.has("--fast-perf"):
        _fast_perf(given, log)
        return
    from tests.fakes.calibration import load_raw
    from tests.fakes.config_b import dumped, read
    from tests.fakes.world import absolute

    config = absolute(given.one("--config") or "")
    if not config.is_file():
        wrong = f"Invalid value for '-c' / '--config': Path '{given.one('--config')}' does not exist."
        usage("hb_mapper", "makertbin", wrong)
    log.at("hb_mapper_makertbin", 530).info("Start Model Convert....")
    job = read(config, given.one("--model-type"), log)
    log.at("hb_mapper_makertbin", 54).debug("Dump config:")
    log.debug(dumped(job.config))
    for it in job.inputs:
        log.info(f"input '{it.name}' : original model shape: {it.shape}")
    data = load_raw(job.samples, log) if job.samples else {}
    kind = str(job.value("calibration_parameters", "calibration_type"))
    if kind == "skip":
        log.info("calibration_type is skip: using random data for calibration")
    if job.value("model_parameters", "debug_mode"):
        _dump(job.working_dir, data)
    from tests.fakes.build_b import Build

    build = Build(
        job.march,
        job.network,
        job.asked,
        job.working_dir,
        job.prefix,
        log,
        level=str(job.value("compiler_parameters", "optimize_level")),
        compiler=job.config["compiler_parameters"],
        sources={i.name: i.source for i in job.inputs},
        layouts={i.name: (i.rt, i.train) for i in job.inputs},
        facts={"config": dumped(job.config), "samples": {n: len(d) for n, d in data.items()}},
    )
    build.run(data, kind, "makertbin-1.24")
    build.finish()


def _dump(working: Path, data: Mapping[str, Sequence[Any]]) -> None:
    import numpy as np

    for name, arrays in data.items():
        folder = working / "calibration_data" / name
        folder.mkdir(parents=True, exist_ok=True)
        for i, array in enumerate(arrays):
            np.save(folder / f"{i}.npy", array)


def _fast_perf(given: Options, log: Log) -> None:
    from tests.fakes.asked import Asked
    from tests.fakes.build_b import Build
    from tests.fakes.models import check_inputs, load
    from tests.fakes.world import absolute

    if given.has("--config"):
        raise Refused("The fast-perf mode is turned on, the incoming config file cannot be used.")
    march = _march(given)
    model = absolute(given.one("--model") or "")
    network = load(model)
    working = Path("model_output")
    working.mkdir(exist_ok=True)
    asked = Asked(softmax_on_bpu=march != "bernoulli2")
    build = Build(march, network, asked, working, model.stem, log, check_inputs=lambda: check_inputs(network))
    build.run({}, "max", "makertbin-1.24")
    build.finish()


if __name__ == "__main__":
    guard()
    fault("start")
    raise SystemExit(main(sys.argv[1:]))
