"""A whole backend in one file: copy it, and put your compiler where onnxruntime's stands.

There is no Example NPU. Its compiler is a real one all the same: onnxruntime's graph optimiser, run ahead of time and
written to a file, which is how many NPU toolchains look from outside (a graph in, a binary out, an optimisation level).
"""

from __future__ import annotations

from enum import StrEnum
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from bpudeploy.backends.base import CompileInputs
from bpudeploy.backends.ort import with_pixels
from bpudeploy.backends.samples import Normalisation
from bpudeploy.errors import StageError
from bpudeploy.events import Note
from bpudeploy.provenance import Provenance
from bpudeploy.stage import Fingerprint, StepContext


class Level(StrEnum):
    """How hard the compiler works; more than BASIC would fit the binary to this machine's CPU."""

    NONE = "none"
    BASIC = "basic"


class ExampleNpuOptions(BaseModel):
    """What a recipe may say under ``compile: example_npu:``. Frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    level: Level = Level.BASIC


class ExampleNpuBackend:
    """The protocol's members (``bpudeploy.backends.base.Backend``); instances hold no state."""

    name = "example_npu"
    version = 1  # raise it when the same inputs would give another binary
    runtime = "onnxruntime"  # what loads the binary on the board
    driver = None  # for a runtime that the agent does not have: a Path to a file with open_session(model, threads)
    provenance = Provenance.MEASURED  # a latency from its boards is measured
    deterministic = True
    findings = False
    options_type = ExampleNpuOptions

    def device(self, march: str) -> str:
        """Name what computes."""
        return "Example NPU"

    def fingerprint(self, options: ExampleNpuOptions) -> Fingerprint:
        """Name the tool and its version: it is in the step's key, so a new compiler compiles again."""
        return {"onnx": version("onnx"), "onnxruntime": version("onnxruntime")}

    def compile(self, work: StepContext, inputs: CompileInputs, options: ExampleNpuOptions) -> Path:
        """Write uint8 RGB (N, H, W, 3) -> float32 logits (N, classes), mean and scale inside.

        Raises:
            StageError: the compiler refuses the graph.
        """
        import onnx
        import onnxruntime

        model = with_pixels(onnx.load(inputs.quantized.path), Normalisation.read(inputs.preprocess.path))
        binary = work.dir / "model.example.onnx"
        asked = onnxruntime.SessionOptions()
        asked.optimized_model_filepath = str(binary)
        asked.graph_optimization_level = {
            Level.NONE: onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
            Level.BASIC: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        }[options.level]
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), asked, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own kinds, which have no common base
            raise StageError(f"the Example NPU's compiler says: {error}", hint="see the graph in the store") from error
        work.emit(Note("compile", f"level {options.level}, {binary.stat().st_size / 1e6:.1f} MB"))
        return binary
