"""What every backend must do, as one check that ours and third parties' run in their tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from bpudeploy.backends.base import FINDINGS, Backend, CompileInputs
from bpudeploy.backends.samples import Normalisation
from bpudeploy.digest import digest_file
from bpudeploy.errors import StageContractError
from bpudeploy.provenance import Provenance
from bpudeploy.stage import Artifact, Kind, Work

if TYPE_CHECKING:
    import onnx

_SIZE, _CLASSES = 8, 3


def check_backend(backend: Backend, folder: Path, march: str = "cpu", options: Any = None) -> None:
    """Hold ``backend`` to its protocol on a network of one convolution, in ``folder`` (empty).

    Args:
        options: an instance of ``backend.options_type``; its defaults when None.

    Raises:
        StageContractError: saying which promise is broken.
    """
    _check_options(backend)
    chosen = options if options is not None else backend.options_type()
    _check_description(backend, chosen)
    inputs = example_inputs(folder, march)
    binaries = []
    for name in ("first", "second"):
        work = folder / name
        work.mkdir()
        binary = backend.compile(Work(work, lambda event: None), inputs, chosen)
        _hold(binary.is_file() and not binary.is_symlink(), f"compile gave {binary}, which is no file")
        _hold(binary.resolve().is_relative_to(work.resolve()), f"compile wrote {binary}, outside its work folder")
        found = work / FINDINGS
        _hold(found.is_file() == backend.findings, f"findings is {backend.findings} and {found} says otherwise")
        binaries.append(binary)
    same = digest_file(binaries[0]) == digest_file(binaries[1])
    _hold(same or not backend.deterministic, "the same inputs compiled twice give other bytes")
    if backend.runtime == "onnxruntime":
        _check_binary(binaries[0], inputs)


def _hold(promise: bool, broken: str) -> None:
    if not promise:
        raise StageContractError(broken, hint="see bpudeploy.backends.base.Backend")


def _check_description(backend: Backend, options: Any) -> None:
    _hold(bool(backend.name) and backend.name.isidentifier(), f"name {backend.name!r} is no plain word")
    _hold(isinstance(backend.version, int) and backend.version >= 1, f"version {backend.version!r} is no number from 1")
    _hold(backend.runtime.isidentifier(), f"runtime {backend.runtime!r} is not the name of a driver")
    _hold(isinstance(backend.provenance, Provenance), f"provenance {backend.provenance!r} is no Provenance")
    _hold(bool(backend.device("march")), "device() names nothing")
    for name in ("deterministic", "findings"):
        _hold(isinstance(getattr(backend, name, None), bool), f"{name} is neither True nor False")
    tools = backend.fingerprint(options)
    _hold(bool(tools), "fingerprint names no tool")
    _hold(all(isinstance(x, str) and x for pair in tools.items() for x in pair), "fingerprint is not text to text")
    _hold(dict(tools) == dict(backend.fingerprint(options)), "fingerprint changes from call to call")


def _check_options(backend: Backend) -> None:
    _hold(bool(backend.options_type.model_config.get("frozen")), "options_type is not frozen")
    try:
        backend.options_type.model_validate({"no such option": 1})
        refused = False
    except ValidationError:
        refused = True
    _hold(refused, "options_type takes unknown keys")


def _check_binary(binary: Path, inputs: CompileInputs) -> None:
    """Hold the binary to the board's contract: uint8 (1, H, W, 3) in, float32 (1, classes) out."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(str(binary), providers=["CPUExecutionProvider"])
    given, made = session.get_inputs(), session.get_outputs()
    _hold(len(given) == 1 and given[0].type == "tensor(uint8)", "the binary's one input is not uint8")
    _hold(list(given[0].shape) == [1, _SIZE, _SIZE, 3], f"the binary's input is {given[0].shape}, not (1, H, W, 3)")
    pixels = np.random.default_rng(1).integers(0, 256, (1, _SIZE, _SIZE, 3), dtype=np.uint8)
    (logits,) = session.run([made[0].name], {given[0].name: pixels})
    _hold(
        logits.shape == (1, _CLASSES) and logits.dtype == np.float32, "the binary's output is not float32 (1, classes)"
    )
    float_session = onnxruntime.InferenceSession(str(inputs.graph.path), providers=["CPUExecutionProvider"])
    normalised = Normalisation.read(inputs.preprocess.path).apply(pixels)
    expected = float_session.run(None, {float_session.get_inputs()[0].name: normalised})[0].reshape(1, -1)
    worst = float(np.abs(logits - expected).max() / np.ptp(expected))
    _hold(worst < 0.05, f"the binary's logits are {worst:.0%} of their range away from float: is the mean inside?")


def example_inputs(folder: Path, march: str) -> CompileInputs:
    """Write what a backend is given for a network of one convolution over 8x8 pixels and four images of noise."""
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
