"""Backend `hb_compile`: S100. Follows the vendor's documents; not yet tested with the real tool."""

from __future__ import annotations

import json
from pathlib import Path

from bpudeploy.backends.base import CompileInputs
from bpudeploy.backends.horizon import network as files
from bpudeploy.backends.horizon.config import QUANT_CONFIG, compile_config, to_yaml
from bpudeploy.backends.horizon.findings import LatencyEstimate
from bpudeploy.backends.horizon.log import COMPILE_CLOSING
from bpudeploy.backends.horizon.network import Network, write_images
from bpudeploy.backends.horizon.session import Session, VendorBackend
from bpudeploy.backends.horizon.tool import find_tool
from bpudeploy.quantize import vendor
from bpudeploy.spec.compile_options import HbCompileOptions
from bpudeploy.stage import StepContext

NAME = "hb_compile"


class HbCompileBackend(VendorBackend):
    """Writes the tool's YAML, network and images, and runs `hb_compile -c`; the result is a .hbm."""

    name = NAME
    version = 1
    runtime = "hbm_runtime"
    options_type = HbCompileOptions

    def compile(self, work: StepContext, inputs: CompileInputs, options: HbCompileOptions) -> Path:
        """Write the binary: NV12 (as Y and UV) or RGB in, float32 logits out, mean and scale inside."""
        session = Session(work, NAME, find_tool(NAME, options), options)
        config = prepare(inputs, options, session.folder)
        session.announce()
        binary = session.folder / files.OUT / f"{files.PREFIX}.hbm"
        report = session.call("-c", files.CONFIG, log="hb_compile.log", closing=COMPILE_CLOSING, product=binary)
        estimate = read_estimate(session.folder / files.OUT / f"{files.PREFIX}.json")
        if estimate is not None:
            report = report.model_copy(update={"estimates": (estimate,)})
        return session.finish(binary, report, inputs.march, config, ".hbm")


def prepare(inputs: CompileInputs, options: HbCompileOptions, folder: Path) -> str:
    """Write everything that the tool reads into ``folder``, and return the YAML.

    Raises:
        StageError: hb_compile does not support this network.
    """
    import numpy as np

    network = Network.read(inputs, options)
    network.write(folder / files.MODEL)
    quant = vendor.quant_config(network.quantized, network.march, network.on_cpu)
    (folder / QUANT_CONFIG).write_text(json.dumps(quant, indent=2) + "\n", encoding="utf-8")
    count = write_images(
        inputs,
        options.calibration_count,
        folder / files.COMPILE_IMAGES,  # .npy of float32 (1, 3, H, W): the input of the float network
        lambda path, image: np.save(path, network.normalisation.apply(image)),
    )
    text = to_yaml(
        compile_config(network, options),
        f"Written by bpudeploy for hb_compile, {inputs.march}; paths are from this folder.\n"
        f"{files.COMPILE_IMAGES} holds {count} images with mean and scale applied: "
        "the tool puts its own in afterwards.",
    )
    (folder / files.CONFIG).write_text(text, encoding="utf-8")
    return text


def read_estimate(path: Path) -> LatencyEstimate | None:
    """Return the static estimate from the JSON beside hb_compile's binary, or None if it has none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["summary"]["performance"]
        return LatencyEstimate(subgraph=files.PREFIX, latency_us=float(found["latency (us)"]), fps=float(found["FPS"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
