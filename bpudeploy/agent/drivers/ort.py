"""onnxruntime on the board's CPU: what a network costs where no BPU helps, and how the agent is tested anywhere."""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any, Dict, List, Sequence, Tuple

from .base import Layer, Refused, Session, Timed


class Ort:
    """A network in onnxruntime that takes RGB uint8 (batch, H, W, 3), and gives one output."""

    driver = "onnxruntime"
    times_frames = True
    parallel = True
    has_tool = False

    def __init__(self, model: str, threads: int) -> None:
        import onnxruntime

        self._model = model
        self._threads = threads
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self._session = self._open(self._options())
        given, wanted = self._session.get_inputs(), self._session.get_outputs()
        if len(given) != 1 or len(wanted) != 1:
            raise Refused(f"{model} has {len(given)} inputs and {len(wanted)} outputs, not one each", _EXPORT)
        shape = given[0].shape
        if given[0].type != "tensor(uint8)" or len(shape) != 4 or shape[3] != 3 or not isinstance(shape[0], int):
            raise Refused(f"{model} takes {given[0].type} {shape}, not uint8 (batch, H, W, 3)", _EXPORT)
        self._given, self._wanted = given[0].name, wanted[0].name
        self.batch: int = shape[0]

    def prepare(self, pixels: Any) -> Any:
        return pixels

    def infer(self, fed: Any) -> Any:
        return self._run(self._session, fed)

    def reserve(self, streams: int) -> None:
        """One session serves any number of threads."""

    def timed(self, frames: int, streams: int) -> Timed:
        raise Refused("onnxruntime has no tool that times frames", "time them with a round")

    def layers(self, frames: Sequence[Any]) -> List[Layer]:
        """Run the frames in a session that profiles; its file is gone when this returns."""
        with tempfile.TemporaryDirectory() as folder:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = os.path.join(folder, "profile")
            session = self._open(options)
            for fed in (frames[0], *frames):  # the first run also allocates, and does not count
                self._run(session, fed)
            with open(session.end_profiling()) as stream:
                events = json.load(stream)
        return _layers(events, len(frames))

    def close(self) -> None:
        del self._session

    def _run(self, session: Any, fed: Any) -> Any:
        return session.run([self._wanted], {self._given: fed})[0].reshape(self.batch, -1)

    def _options(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        return options

    def _open(self, options: Any) -> Any:
        import onnxruntime

        try:
            return onnxruntime.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a class of its own for each status, none with a common base
            raise Refused(f"onnxruntime cannot load {self._model}: {error}", _EXPORT) from error


_EXPORT = "bring the network to the board with bpudeploy deploy"


def _layers(events: List[Dict[str, Any]], frames: int) -> List[Layer]:
    """Return ms a frame of each node, in the order they ran; the first run of each is the warm-up."""
    took: Dict[Tuple[str, str], List[float]] = {}
    for event in events:
        name, _, what = event["name"].rpartition("_kernel_")
        if event.get("cat") == "Node" and what == "time":
            took.setdefault((name, event["args"]["op_name"]), []).append(event["dur"] / 1000)
    return [Layer(name, op, "cpu", sum(ms[1:]) / frames) for (name, op), ms in took.items()]


def open_session(model: str, threads: int) -> Session:
    """Load an ONNX file; ``threads`` 0 leaves their number to onnxruntime.

    Raises:
        Refused: onnxruntime is not there, or cannot load the file.
    """
    try:
        return Ort(model, threads)
    except ImportError as error:
        raise Refused(f"this Python has no onnxruntime: {error}", "pip install onnxruntime numpy there") from error
