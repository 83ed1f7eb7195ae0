"""Backend `ort`: the board's CPU with onnxruntime. A real device, never a BPU."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.backends.base import CompileInputs
from bpudeploy.backends.samples import Normalisation
from bpudeploy.events import Note
from bpudeploy.onnxmodel import copy_model, shape_of
from bpudeploy.provenance import Provenance
from bpudeploy.spec.compile_options import OrtOptions
from bpudeploy.stage import Fingerprint, StepContext

if TYPE_CHECKING:
    import onnx


class OrtBackend:
    """Prepends the normalisation of pixels to the QDQ graph; onnxruntime compiles it on the board."""

    name = "ort"
    version = 2
    runtime = "onnxruntime"
    driver = None
    provenance = Provenance.MEASURED
    deterministic = True
    findings = False
    options_type = OrtOptions

    def device(self, march: str) -> str:
        return "CPU (onnxruntime)"

    def fingerprint(self, options: OrtOptions) -> Fingerprint:
        return {"onnx": version("onnx")}

    def compile(self, work: StepContext, inputs: CompileInputs, options: OrtOptions) -> Path:
        """Write the binary: uint8 RGB (N, H, W, 3) in, float32 logits (N, classes) out, opset 13.

        A feature extractor keeps its 4-D outputs.
        """
        import onnx

        model = onnx.load(inputs.quantized.path)
        bound = with_pixels(model, Normalisation.read(inputs.preprocess.path))
        out = work.dir / "model.onnx"
        onnx.save(bound, out)
        size = out.stat().st_size / 1e6
        work.emit(Note("compile", f"{len(bound.graph.node)} nodes, {size:.1f} MB, for onnxruntime on the board's CPU"))
        return out


def with_pixels(model: onnx.ModelProto, normalisation: Normalisation) -> onnx.ModelProto:
    """Return ``model`` with uint8 NHWC pixels as input and (N, classes) logits as output.

    Outputs that are not one vector per image are unchanged.

    (x / 255 - mean) / std is one multiplication and one addition per channel: x * scale + shift.
    """
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    out = copy_model(model)
    graph = out.graph
    (given,) = graph.input
    batch = shape_of(given)[0]
    height, width = normalisation.size
    pixels = helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, [batch, height, width, 3])
    for name, values in (("image.scale", normalisation.scale), ("image.shift", normalisation.shift)):
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.float32).reshape(1, 3, 1, 1), name))
    front = [
        helper.make_node("Transpose", ["image"], ["image.nchw"], name="image.transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["image.nchw"], ["image.float"], name="image.cast", to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["image.float", "image.scale"], ["image.scaled"], name="image.scale"),
        helper.make_node("Add", ["image.scaled", "image.shift"], [given.name], name="image.shift"),
    ]
    nodes = [*front, *graph.node]
    shape = shape_of(graph.output[0])
    if len(graph.output) == 1 and shape[2:] == (1, 1):
        made = graph.output[0].name
        graph.initializer.append(numpy_helper.from_array(np.array(shape[:2], np.int64), "logits.flat.shape"))
        nodes.append(helper.make_node("Reshape", [made, "logits.flat.shape"], ["logits.flat"], name="logits.flatten"))
        del graph.output[:]
        graph.output.append(helper.make_tensor_value_info("logits.flat", onnx.TensorProto.FLOAT, shape[:2]))
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.input.append(pixels)
    onnx.checker.check_model(out, full_check=True)
    return out
