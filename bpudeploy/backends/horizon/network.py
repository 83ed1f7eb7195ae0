"""The network and its images as a vendor tool reads them: files in its working directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.backends.base import CompileInputs
from bpudeploy.backends.samples import Normalisation, Samples
from bpudeploy.conformance.placement import cpu_only_nodes
from bpudeploy.errors import StageError
from bpudeploy.onnxmodel import inputs_of, shape_of
from bpudeploy.spec.compile_options import InputType, VendorOptions
from bpudeploy.spec.target import March

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

MODEL = "model.onnx"
CONFIG = "config.yaml"
OUT = "out"
PREFIX = "model"
MAPPER_IMAGES = "calibration_f32"
"""The suffix is the type: hb_mapper reads uint8 otherwise, unless configured."""
COMPILE_IMAGES = "calibration"


@dataclass(frozen=True, eq=False)
class Network:
    """The float graph to compile: one input ``name`` of ``shape`` (1, 3, H, W), its QDQ form, and its mean and std."""

    model: onnx.ModelProto
    quantized: onnx.ModelProto
    name: str
    shape: tuple[int, ...]
    normalisation: Normalisation
    march: March
    on_cpu: frozenset[str]
    """Nodes that the march's compiler never puts on the BPU."""

    @classmethod
    def read(cls, inputs: CompileInputs, options: VendorOptions) -> Network:
        """Read the network to compile.

        Raises:
            StageError: no vendor tool supports it.
        """
        import onnx

        model, march = onnx.load(inputs.graph.path), March(inputs.march)
        images = inputs_of(model.graph)
        if len(images) != 1:
            raise StageError(
                f"the network has {len(images)} inputs, and only one is supported", hint="use a model with one input"
            )
        shape = shape_of(images[0])
        _check_input(shape, options)
        return cls(
            model,
            onnx.load(inputs.quantized.path),
            images[0].name,
            shape,
            Normalisation.read(inputs.preprocess.path),
            march,
            cpu_only_nodes(model, march),
        )

    def write(self, path: Path, newest_ir: int | None = None) -> None:
        """Write the graph; ``newest_ir`` is the newest ONNX IR version that the tool reads."""
        import onnx

        if newest_ir is not None:
            self.model.ir_version = min(self.model.ir_version, newest_ir)
        onnx.save(self.model, path)


def _check_input(shape: tuple[int, ...], options: VendorOptions) -> None:
    if len(shape) != 4 or shape[:2] != (1, 3) or min(shape) < 1:
        raise StageError(f"the network's input is {shape}, not (1, 3, H, W)", hint="set `model.batch` to 1")
    if options.input_type_rt is InputType.NV12 and (shape[2] % 2 or shape[3] % 2):
        raise StageError(
            f"nv12 needs an even height and width, and the network's input is {shape[2]}x{shape[3]}",
            hint="use an even model.image_size, or `input_type_rt: rgb`",
        )


def write_images(
    inputs: CompileInputs, count: int | None, folder: Path, save: Callable[[Path, NDArray[np.uint8]], None]
) -> int:
    """Write the calibration images, at most ``count``, and return how many.

    ``save`` gets the path of a file without its suffix and one image, RGB (1, H, W, 3).
    """
    chosen = Samples.read(inputs.calibration.path).pixels[:count]
    folder.mkdir()
    for i in range(len(chosen)):
        save(folder / f"{i:05}", chosen[i : i + 1])
    return len(chosen)
