"""onnxruntime on the board's CPU: a network's latency without a BPU, and a runtime for tests on any machine."""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any, Dict, List, Optional, Sequence, Tuple

from .base import Layer, Refused, Session, ToolTiming


class Ort:
    """An ONNX model with one input, RGB uint8 (batch, H, W, 3), and one output."""

    driver = "onnxruntime"
    times_frames = True
    parallel = True
    has_tool = False

    def __init__(self, model: str, threads: int) -> None:
        import onnxruntime

        self._model = model
        self._threads = threads
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self._session = self._open()
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise Refused(f"{model} has {len(inputs)} inputs and {len(outputs)} outputs, not one each", _EXPORT)
        shape = inputs[0].shape
        if inputs[0].type != "tensor(uint8)" or len(shape) != 4 or shape[3] != 3 or not isinstance(shape[0], int):
            raise Refused(f"{model} takes {inputs[0].type} {shape}, not uint8 (batch, H, W, 3)", _EXPORT)
        self._input, self._output = inputs[0].name, outputs[0].name
        self.batch: int = shape[0]

    def prepare(self, pixels: Any) -> Any:
        return pixels

    def infer(self, inputs: Any) -> Any:
        return self._run(self._session, inputs)

    def reserve(self, streams: int) -> None:
        """Nothing to allocate: a session is thread-safe."""

    def timed(self, frames: int, streams: int) -> ToolTiming:
        raise Refused("onnxruntime has no benchmark tool", "use a round")

    def layers(self, frames: Sequence[Any]) -> List[Layer]:
        """Run the frames in a separate session with profiling enabled."""
        with tempfile.TemporaryDirectory() as folder:
            session = self._open(profile=os.path.join(folder, "profile"))
            for inputs in (frames[0], *frames):  # the first run is the warm-up
                self._run(session, inputs)
            with open(session.end_profiling()) as stream:
                events = json.load(stream)
        return _layers(events, len(frames))

    def close(self) -> None:
        del self._session

    def _run(self, session: Any, inputs: Any) -> Any:
        return session.run([self._output], {self._input: inputs})[0].reshape(self.batch, -1)

    def _open(self, profile: Optional[str] = None) -> Any:
        """Load the network; with ``profile``, the beginning of a path, it records the time of each node."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        try:
            return onnxruntime.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise Refused(f"onnxruntime cannot load {self._model}: {error}", _EXPORT) from error


_EXPORT = "deploy the network with bpudeploy deploy"


def _layers(events: List[Dict[str, Any]], frames: int) -> List[Layer]:
    """Return ms per frame of each node, in execution order; each node's first run is the warm-up."""
    times: Dict[Tuple[str, str], List[float]] = {}
    for event in events:
        name, _, suffix = event["name"].rpartition("_kernel_")
        if event.get("cat") == "Node" and suffix == "time":
            times.setdefault((name, event["args"]["op_name"]), []).append(event["dur"] / 1000)
    return [Layer(name, op, "cpu", sum(ms[1:]) / frames) for (name, op), ms in times.items()]


def open_session(model: str, threads: int) -> Session:
    """Load an ONNX file; ``threads`` 0 is onnxruntime's default."""
    try:
        return Ort(model, threads)
    except ImportError as error:
        raise Refused(f"this Python has no onnxruntime: {error}", "pip install onnxruntime numpy there") from error
