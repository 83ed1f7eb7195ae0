"""The conformance check for backends, run by our tests and by those of third parties."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from bpudeploy.backends.base import FINDINGS, Backend, CompileInputs
from bpudeploy.backends.samples import Normalisation
from bpudeploy.digest import digest_file
from bpudeploy.errors import StageContractError
from bpudeploy.provenance import Provenance
from bpudeploy.stage import Artifact, Kind, StepContext

if TYPE_CHECKING:
    import onnx

_SIZE, _CLASSES = 8, 3


def check_backend(backend: Backend, folder: Path, march: str = "cpu", options: Any = None) -> None:
    """Check that ``backend`` keeps its protocol, on a network of one convolution in ``folder`` (empty).

    Args:
        options: an instance of ``backend.options_type``; its defaults when None.

    Raises:
        StageContractError: it does not; the message names the violation.
    """
    _check_options(backend)
    chosen = options if options is not None else backend.options_type()
    _check_description(backend, chosen)
    inputs = example_inputs(folder, march)
    binaries = []
    for name in ("first", "second"):
        work = folder / name
        work.mkdir()
        binary = backend.compile(StepContext(work, lambda event: None), inputs, chosen)
        _require(binary.is_file() and not binary.is_symlink(), f"compile returned {binary}, which is not a file")
        _require(binary.resolve().is_relative_to(work.resolve()), f"{binary} is outside its work folder")
        found = work / FINDINGS
        _require(found.is_file() == backend.findings, f"findings is {backend.findings}, which contradicts {found}")
        binaries.append(binary)
    same = digest_file(binaries[0]) == digest_file(binaries[1])
    _require(same or not backend.deterministic, "compiling the same inputs twice gives different bytes")
    if backend.runtime == "onnxruntime":
        _check_binary(binaries[0], inputs)


def _require(condition: bool, violation: str) -> None:
    if not condition:
        raise StageContractError(violation, hint="see bpudeploy.backends.base.Backend")


def _check_description(backend: Backend, options: Any) -> None:
    _require(bool(backend.name) and backend.name.isidentifier(), f"name {backend.name!r} is not an identifier")
    _require(
        isinstance(backend.version, int) and backend.version >= 1,
        f"version {backend.version!r} is not an integer from 1",
    )
    _require(backend.runtime.isidentifier(), f"runtime {backend.runtime!r} is not the name of a driver")
    _require(isinstance(backend.provenance, Provenance), f"provenance {backend.provenance!r} is not a Provenance")
    _require(bool(backend.device("march")), "device() returns nothing")
    for name in ("deterministic", "findings"):
        _require(isinstance(getattr(backend, name, None), bool), f"{name} is not a bool")
    tools = backend.fingerprint(options)
    _require(bool(tools), "fingerprint names no tool")
    _require(
        all(isinstance(x, str) and x for pair in tools.items() for x in pair), "fingerprint does not map str to str"
    )
    _require(dict(tools) == dict(backend.fingerprint(options)), "fingerprint changes between calls")


def _check_options(backend: Backend) -> None:
    _require(bool(backend.options_type.model_config.get("frozen")), "options_type is not frozen")
    with suppress(ValidationError):
        backend.options_type.model_validate({"no such option": 1})
        _require(False, "options_type accepts unknown keys")


def _check_binary(binary: Path, inputs: CompileInputs) -> None:
    """Check the board's contract: uint8 (1, H, W, 3) in, float32 (1, classes) out."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(str(binary), providers=["CPUExecutionProvider"])
    given, made = session.get_inputs(), session.get_outputs()
    _require(len(given) == 1 and given[0].type == "tensor(uint8)", "the binary's one input is not uint8")
    _require(list(given[0].shape) == [1, _SIZE, _SIZE, 3], f"the binary's input is {given[0].shape}, not (1, H, W, 3)")
    pixels = np.random.default_rng(1).integers(0, 256, (1, _SIZE, _SIZE, 3), dtype=np.uint8)
    (logits,) = session.run([made[0].name], {given[0].name: pixels})
    _require(
        logits.shape == (1, _CLASSES) and logits.dtype == np.float32, "the binary's output is not float32 (1, classes)"
    )
    float_session = onnxruntime.InferenceSession(str(inputs.graph.path), providers=["CPUExecutionProvider"])
    normalised = Normalisation.read(inputs.preprocess.path).apply(pixels)
    expected = float_session.run(None, {float_session.get_inputs()[0].name: normalised})[0].reshape(1, -1)
    worst = float(np.abs(logits - expected).max() / np.ptp(expected))
    _require(worst < 0.05, f"the binary's logits differ from float by {worst:.0%} of their range: is the mean inside?")


def example_inputs(folder: Path, march: str) -> CompileInputs:
    """Write the inputs of a compilation: a network of one convolution over 8x8 pixels and four images of noise."""
    import numpy as np
    import onnx
    from safetensors.numpy import save_file

    from bpudeploy.quantize.scheme import quantize_graph
    from bpudeploy.spec.precision import Precision, PrecisionRules
    from bpudeploy.spec.quantize import QuantizeSpec
    from bpudeploy.spec.target import March

    numbers = np.random.default_rng(0)
    preprocess = folder / "preprocess.json"
    preprocess.write_text(json.dumps({"size": [_SIZE, _SIZE], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}))
    pixels = numbers.integers(0, 256, (4, _SIZE, _SIZE, 3), dtype=np.uint8)
    save_file({"pixels": pixels, "labels": np.zeros(4, np.int64)}, folder / "calibration.safetensors")
    model = _network(numbers.standard_normal((_CLASSES, 3, _SIZE, _SIZE)).astype(np.float32))
    normalise = Normalisation.read(preprocess)
    int8 = (Precision.INT8,)
    only_int8 = PrecisionRules(conv=int8, matmul=int8, elsewhere=Precision.INT8)
    rules, spec = only_int8 if march == March.BERNOULLI2 else PrecisionRules(), QuantizeSpec()
    made = quantize_graph(
        model, (), (), rules, spec, lambda i: normalise.apply(pixels[i : i + 1]), len(pixels), lambda done: None
    )
    onnx.save(made.prepared, folder / "graph.onnx")
    made.record.write(made.qdq)
    onnx.save(made.qdq, folder / "quantized.onnx")
    return CompileInputs(
        _artifact(Kind.GRAPH, folder / "graph.onnx"),
        _artifact(Kind.QUANTIZED, folder / "quantized.onnx"),
        _artifact(Kind.SAMPLES, folder / "calibration.safetensors"),
        _artifact(Kind.PREPROCESS, preprocess),
        march,
    )


def _artifact(kind: Kind, path: Path) -> Artifact:
    return Artifact(kind, digest_file(path), path)


def _network(weight: Any) -> onnx.ModelProto:
    """Return pixels (1, 3, H, W) -> one convolution over the whole image -> logits (1, classes, 1, 1), opset 11."""
    import onnx
    from onnx import helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Conv", ["pixels", "weight"], ["logits"], name="conv")],
        "check",
        [helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, [1, 3, _SIZE, _SIZE])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, _CLASSES, 1, 1])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
