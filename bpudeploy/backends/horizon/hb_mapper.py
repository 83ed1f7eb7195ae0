"""Backend `hb_mapper`: X3, X5 and Ultra; tested with the vendor's 1.24.3."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.backends.base import SIMULATOR, CompileInputs, SimulationInputs
from bpudeploy.backends.horizon import network as files
from bpudeploy.backends.horizon.config import Config, mapper_config, to_yaml
from bpudeploy.backends.horizon.findings import CompilerFindings, LogSummary
from bpudeploy.backends.horizon.inside import BUILD
from bpudeploy.backends.horizon.layers import read_profiles
from bpudeploy.backends.horizon.log import MAPPER_CLOSING
from bpudeploy.backends.horizon.network import Network, write_images
from bpudeploy.backends.horizon.quant_info import merged_nodes, quantized_names, with_full_name
from bpudeploy.backends.horizon.session import Session, VendorBackend
from bpudeploy.backends.horizon.simulate import integers, simulate, tensors
from bpudeploy.backends.horizon.thresholds import QUANTIZATION, differences, quantization
from bpudeploy.backends.horizon.tool import Tool, find_tool
from bpudeploy.conformance.profile import Profile
from bpudeploy.events import Event
from bpudeploy.onnxmodel import copy_model
from bpudeploy.quantize.vendor import HB_MAPPER
from bpudeploy.spec.compile_options import CalibrationType, HbMapperOptions
from bpudeploy.stage import Artifact, StepContext

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

NAME = "hb_mapper"
NEWEST_IR = 9
"""The newest ONNX ir_version that hb_mapper 1.24.3 reads."""


@contextmanager
def tool_session(model: onnx.ModelProto, options: HbMapperOptions, emit: Callable[[Event], None]) -> Iterator[Session]:
    """Open the tool in a temporary folder that has ``model`` (opset 10 or 11) and nothing else.

    Raises:
        ToolMissing: the tool is not on this machine.
    """
    import onnx

    tool, given = find_tool(NAME, options), copy_model(model)
    given.ir_version = min(given.ir_version, NEWEST_IR)
    with tempfile.TemporaryDirectory(prefix="bpudeploy-") as folder:
        session = Session(StepContext(Path(folder), emit), NAME, tool, options)
        onnx.save(given, session.folder / files.MODEL)
        yield session


class HbMapperBackend(VendorBackend):
    """Writes the tool's YAML, network and images, and runs `checker` and `makertbin`; the result is a .bin."""

    name = NAME
    version = 6
    runtime = "hobot_dnn"
    options_type = HbMapperOptions

    def compile(self, work: StepContext, inputs: CompileInputs, options: HbMapperOptions) -> Path:
        """Write the binary: NV12 or RGB in, float32 logits out, mean and scale inside."""
        return compile_with(find_tool(NAME, options), work, inputs, options)[0]

    def simulates(self, options: HbMapperOptions) -> bool:
        """With the toolchain that bpudeploy installs: another version's integer model is another one."""
        return find_tool(NAME, options).pinned

    def integers(
        self, work: StepContext, inputs: CompileInputs, pixels: NDArray[np.uint8], options: HbMapperOptions
    ) -> NDArray[np.float32]:
        """Run the integer model that the tool makes before it compiles."""
        tool, folder = find_tool(NAME, options), work.dir / "integers"
        folder.mkdir()
        prepare(inputs, options, folder, _calibration(tool, options))
        return integers(tool, work, folder, pixels, options)

    def tensors(
        self, work: StepContext, simulator: Artifact, pixels: NDArray[np.uint8], options: HbMapperOptions
    ) -> Iterator[dict[str, NDArray[np.integer]]]:
        """Run the tool's integer model with every tensor as an output."""
        return tensors(find_tool(NAME, options), work, simulator.path, pixels, options)

    def profile(self, findings: Path) -> Profile:
        """Read what the compiler estimated."""
        return CompilerFindings.model_validate_json(findings.read_bytes()).profile()

    def simulate(self, work: StepContext, inputs: SimulationInputs, options: HbMapperOptions) -> NDArray[np.float32]:
        """Run the tool's integer model, and hbdk-sim on the binary for a few images."""
        return simulate(find_tool(NAME, options), work, inputs, options)


def compile_with(
    tool: Tool, work: StepContext, inputs: CompileInputs, options: HbMapperOptions
) -> tuple[Path, LogSummary]:
    """Compile with ``tool``; return the binary under ``work.dir`` and the parsed log.

    Raises:
        StageError: the compiler fails; the message has its reason.
    """
    session = Session(work, NAME, tool, options)
    calibration = _calibration(tool, options)
    recipe = calibration is CalibrationType.RECIPE
    written = prepare(inputs, options, session.folder, calibration)
    session.announce()
    onnx = ("--model-type", "onnx")
    session.call(*("checker", *onnx, "--march", inputs.march, "--model", files.MODEL), log="hb_mapper_checker.log")
    out = session.folder / files.OUT
    binary = out / f"{files.PREFIX}.bin"
    report = session.call(
        *("makertbin", *onnx, "--config", files.CONFIG),
        log="hb_mapper_makertbin.log",
        closing=MAPPER_CLOSING,
        product=binary,
        script=BUILD if recipe else None,
    )
    names = quantized_names(out / f"{files.PREFIX}_quant_info.json")
    report = report.model_copy(update={"nodes": tuple(with_full_name(row, names) for row in report.nodes)})
    merged = merged_nodes(written["model_parameters"]["node_info"] or (), names)
    calibrated = out / f"{files.PREFIX}_calibrated_model.onnx"
    differ: tuple[str, ...] = ()
    if recipe:
        report = report.model_copy(update={"calibration_method": calibration.value})
        differ = differences(session.folder / QUANTIZATION, calibrated)
    if tool.pinned:
        (out / f"{files.PREFIX}_quantized_model.onnx").rename(work.dir / SIMULATOR)
    found = merged, differ, *read_profiles(out)
    return session.finish(binary, report, inputs.march, to_yaml(written), ".bin", *found), report


def _calibration(tool: Tool, options: HbMapperOptions) -> CalibrationType:
    return options.calibration_type or (CalibrationType.RECIPE if tool.pinned else CalibrationType.DEFAULT)


def prepare(inputs: CompileInputs, options: HbMapperOptions, folder: Path, calibration: CalibrationType) -> Config:
    """Write everything that the tool reads into ``folder``, and return its configuration.

    Raises:
        StageError: hb_mapper does not support this network.
    """
    network = Network.read(inputs, options)
    if calibration is CalibrationType.RECIPE and network.march in HB_MAPPER:
        from bpudeploy.backends.horizon.rounding import undo_floors

        undo_floors(network.model, network.quantized)
    network.write(folder / files.MODEL, NEWEST_IR)
    count = write_images(
        inputs,
        options.calibration_count,
        folder / files.MAPPER_IMAGES,  # raw float32 (3, H, W) of 0..255
        lambda path, image: image.transpose(0, 3, 1, 2).astype("float32").tofile(path.with_suffix(".bin")),
    )
    config = mapper_config(network, options, calibration)
    comment = (
        f"Written by bpudeploy for hb_mapper, {inputs.march}; paths are from this folder.\n"
        f"{files.MAPPER_IMAGES} holds {count} images as 0..255: the tool applies mean_value and scale_value itself."
    )
    if calibration is CalibrationType.RECIPE:
        (folder / QUANTIZATION).write_text(json.dumps(quantization(network.quantized)), encoding="utf-8")
        comment += f"\nThe thresholds of {QUANTIZATION} replace those of its calibration ({BUILD})."
    (folder / files.CONFIG).write_text(to_yaml(config, comment), encoding="utf-8")
    return config
