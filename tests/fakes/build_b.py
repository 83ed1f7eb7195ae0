"""Family B's build: prepare, optimize, calibrate, quantize, compile, and what is printed and written on the way."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes.asked import Asked
from tests.fakes.models import Network, building, check_domains, check_opset, check_outputs
from tests.fakes.nodes import Compiled, Row, compile_bin
from tests.fakes.products import artifact, digest, save_onnx, static_json
from tests.fakes.say import Log, fault
from tests.fakes.tables import node_table, output_table, variant

_INTERMEDIATE = {"nv12": "YUV444_128", "yuv444": "YUV444_128", "rgb": "RGB_128", "bgr": "BGR_128", "gray": "GRAY_128"}


@dataclass
class Build:
    """One model on its way through the tool. An empty ``prefix`` is the checker's: it keeps no product."""

    march: str
    network: Network
    asked: Asked
    working_dir: Path
    prefix: str
    log: Log
    level: str = "O3"
    compiler: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    layouts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    check_inputs: Callable[[], None] = lambda: None
    compiled: Compiled | None = None

    def run(self, data: Mapping[str, Sequence[Any]], calibration: str, table: str) -> None:
        """Build as far as the tables."""
        log = self.log
        self._params(data, calibration)
        log.at("model_builder", 35).info("Start to Horizon NN Model Convert.")
        log.at("model_builder", 197).info(f"The specified model compilation architecture: {self.march}.")
        log.info("The specified model compilation optimization parameters: [].")
        self._prepare()
        self._stage("optimize the onnx model", "optimize", "optimized_float")
        self._calibrate(data, calibration)
        self._stage("quantize the model", "quantize", "quantized")
        self._compile()
        assert self.compiled is not None
        which = variant(table)
        log.at("print_info_dict", 72).info(node_table(self.compiled.rows, which))
        if which.startswith("makertbin"):
            log.info(output_table(self.network.outputs, self.compiled.rows))
        log.at("model_builder", 38).info("End to Horizon NN Model Convert.")

    def _params(self, data: Mapping[str, Sequence[Any]], calibration: str) -> None:
        """Dump the calibration arrays into the log file, as the tool does: megabytes for real images."""
        shown = {n: [_shown(a, self.layouts.get(n, ("featuremap",))[0]) for a in d] for n, d in data.items()}
        inputs = {
            name: {
                "input_shape": shape,
                "expected_input_type": _INTERMEDIATE.get(self.layouts.get(name, ("", ""))[0], "FEATUREMAP"),
                "original_input_type": self.layouts.get(name, ("", "featuremap"))[1].upper(),
            }
            for name, shape in self.network.inputs.items()
        }
        params = {"march": self.march, "save_model": True, "name_prefix": self.prefix, "input_dict": inputs}
        params["cali_dict"] = {"calibration_type": calibration, "calibration_data": shown}
        self.log.at("hb_mapper_makertbin", 519).debug(f"call build params:\n {params}")

    def _prepare(self) -> None:
        log, network, model = self.log, self.network, self.network.model
        log.at("model_builder", 35).info("Start to prepare the onnx model.")
        fault("parse")
        check_opset(network)
        check_domains(network, custom=self.asked.custom)
        self.check_inputs()
        check_outputs(network)
        lines = [
            "Input ONNX Model Information:",
            f"ONNX IR version:          {model.ir_version}",
            f"Opset version:            ['ai.onnx v{network.opset}', 'horizon v1']",
            f"Producer:                 {model.producer_name or None}",
            "Domain:                   None",
            "Version:                  None",
            "Graph input:",
            *(f"    {n + ':':22}shape={s}, dtype=FLOAT32" for n, s in network.inputs.items()),
            "Graph output:",
            *(f"    {n + ':':22}dtype=FLOAT32" for n in network.outputs),
        ]
        log.at("prepare", 106).info("\n".join(lines))
        log.at("model_builder", 38).info("End to prepare the onnx model.")
        self._save("original_float")

    def _save(self, stage: str) -> None:
        name = f"{self.prefix}_{stage}_model.onnx" if self.prefix else f"{stage}_model.onnx"
        self.log.at("model_builder", 265).info(f"Saving model to: {name}.")
        save_onnx(self.network.model, self.working_dir / name, self.asked.images, stage.partition("_")[0])

    def _stage(self, words: str, name: str, product: str) -> None:
        self.log.at("model_builder", 35).info(f"Start to {words}.")
        fault(name)
        self.log.at("model_builder", 38).info(f"End to {words}.")
        self._save(product)

    def _calibrate(self, data: Mapping[str, Sequence[Any]], calibration: str) -> None:
        log = self.log
        log.at("model_builder", 35).info("Start to calibrate the model.")
        fault("calibrate")
        for name, arrays in data.items():
            log.at("calibration_data_set", 111).info(f"input name: {name},  number_of_samples: {len(arrays)}")
            log.at("calibration_data_set", 123).info(f"There are {len(arrays)} samples in the data set.")
        if data and calibration == "default":
            log.at("infer_thresholds", 84).info("Run calibration model with modelwise search method.")
            log.at("base", 138).info("Calibration using batch 8")
            if any(n.op_type == "Reshape" for n in self.network.model.graph.node):
                log.at("ort", 207).info("Reset batch_size=1 and execute forward again...")
            log.at("modelwise_search", 75).info("Select max method.")
        elif data:
            log.at("infer_thresholds", 84).info(f"Run calibration model with {calibration} method.")
        log.at("model_builder", 38).info("End to calibrate the model.")
        self._save("calibrated")

    def _compile(self) -> None:
        log = self.log
        log.at("model_builder", 35).info(f"Start to compile the model with march {self.march}.")
        fault("compile")
        self.compiled = compile_bin(self.network, self.march, self.asked)
        for name in self.compiled.fallen:
            log.at("hybrid_build", 90).info(f"Layer {name} will be executed on CPU")
        if "FAKE_HB_CC" in os.environ:
            raise building(f"hbdk-cc compile hbir model failed with returncode {os.environ['FAKE_HB_CC']}")
        for i, latency in enumerate(self.compiled.latencies):
            self._submodel(f"main_graph_subgraph_{i}", latency)
        log.at("model_builder", 38).info(f"End to compile the model with march {self.march}.")

    def _submodel(self, name: str, latency: float) -> None:
        log, ddr = self.log, int(latency * 3400)
        log.at("hybrid_build", 111).info(f"Compile submodel: {name}")
        source = next(iter(self.sources.values()), "ddr")
        words = [f"--{self.level}"]
        words += ["--debug"] if self.compiler.get("debug") else []
        words += ["--core-num", str(self.compiler.get("core_num", 1))]
        words += ["--fast"] if self.compiler.get("compile_mode", "latency") == "latency" else ["--ddr"]
        words += ["--jobs", str(self.compiler["jobs"])] if "jobs" in self.compiler else []
        words += ["--input-layout", "NHWC", "--output-layout", "NHWC", "--input-source", source]
        scratch = f"/tmp/tmp{secrets.token_hex(4)}/{name}"
        log.at("hbdk_cc", 126).info(f"hbdk-cc parameters:{words}")
        log.at("hbdk_cc", 127).debug(
            f"hbdk-cc command used:hbdk-cc -f hbir -m {scratch}.hbir -o {scratch}.hbm --march {self.march} "
            f"--progressbar {' '.join(words)}"
        )
        log.raw("[==================================================] 100%")
        log.at("tool_utils", 326).info("consumed time 0.8271")
        if self.prefix:
            log.info(f"FPS={1e6 / latency:.2f}, latency = {latency:.1f} us, DDR = {ddr} bytes   (see {name}.html)")
            (self.working_dir / f"{name}.html").write_text(f"<html><body>{name}: {latency:.1f} us</body></html>\n")
            (self.working_dir / f"{name}.json").write_text(static_json([latency], self.march, ddr))

    def finish(self) -> None:
        """Write the artifact and close."""
        log = self.log
        log.at("hb_mapper_makertbin", 601).info("start convert to *.bin file....")
        log.at("onnx2horizonrt", 4326).info(f"ONNX model output num : {len(self.network.outputs)}")
        log.at("onnx2horizonrt", 4183).info("############# model deps info #############")
        assert self.compiled is not None
        rows: Sequence[Row] = self.compiled.rows
        convs = {r.name: r.dtype for r in rows if r.plain == "Conv"}
        here = self.working_dir
        (here / f"{self.prefix}_quantized_model_conv_output_map.json").write_text(json.dumps(convs))
        table = "\n".join(f"{r.name},{r.on},{r.kind},{r.cosine},{r.threshold},{r.dtype}" for r in rows)
        (here / f"{self.prefix}_node_info.csv").write_text(
            f"Node,ON,Type,Cosine Similarity,Threshold,DataType\n{table}\n"
        )
        if "FAKE_HB_TRUNCATE" not in os.environ:
            facts = {"march": self.march, "model": digest(self.network.path), "inputs": self.network.inputs}
            artifact(here / f"{self.prefix}.bin", "bin", {**facts, "level": self.level, **self.facts})
        log.at("hb_mapper_makertbin", 783).info("Convert to runtime bin file successfully!")
        log.at("hb_mapper_makertbin", 784).info("End Model Convert")


def _shown(array: Any, kind: str) -> Any:
    return array - 128 if kind in _INTERMEDIATE else array
