"""The protocol of a compile backend. Third parties add one by an entry point in ``bpudeploy.backends``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pydantic import BaseModel

from bpudeploy.conformance.profile import Profile
from bpudeploy.errors import UsageError
from bpudeploy.provenance import Provenance
from bpudeploy.stage import Artifact, Fingerprint, StepContext

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FINDINGS = "findings.json"
"""The findings file in ``work.dir``, beside the binary."""
SIMULATOR = "simulator"
"""The file in ``work.dir``, beside the binary, of a backend that ``simulates``."""
SCORES_STEP = "compile/scores"
"""The step that scores the binary, as its events name it."""


class ToolMissing(UsageError):
    """A backend's compiler is not on this machine; the hint tells how to get it."""


@dataclass(frozen=True)
class CompileInputs:
    """All inputs of a compilation; each backend reads what it needs."""

    graph: Artifact  # GRAPH: the restructured float network
    quantized: Artifact  # QUANTIZED: QDQ, same node names
    calibration: Artifact  # SAMPLES
    preprocess: Artifact  # PREPROCESS
    march: str  # the target's


@dataclass(frozen=True)
class SimulationInputs:
    """What a backend wrote, and the images to run: uint8 RGB (N, H, W, 3) after resize and crop."""

    simulator: Artifact
    binary: Artifact
    pixels: NDArray[np.uint8]


class Backend(Protocol):
    """A compiler for some marches. Instances hold no state; options are a frozen pydantic model.

    The board's contract: the binary takes one tensor of N RGB images after resize and crop, N being the recipe's
    ``model.batch``, and returns float32 logits (N, classes). Mean and scale are inside the binary. For onnxruntime the
    tensor is uint8 (N, H, W, 3); a vendor's binary may take NV12 instead.
    """

    name: str
    version: int
    runtime: str
    """What loads the binary on the board: the agent has onnxruntime, hobot_dnn and hbm_runtime."""
    provenance: Provenance
    """What a latency from its boards is: measured, or simulated."""
    deterministic: bool
    """The same inputs give the same bytes; if not, the store keeps the first result."""
    findings: bool
    """``compile`` also writes ``work.dir / FINDINGS``."""

    @property
    def options_type(self) -> type[BaseModel]:
        """The frozen model of the ``compile:`` section with this backend's name.

        A field with ``exclude=True`` does not change the binary and is not in the key.
        """
        ...

    @property
    def driver(self) -> Path | None:
        """A driver for another runtime: a Python 3.8 file with ``open_session``, as in ``agent/drivers/ort.py``."""
        ...

    def device(self, march: str) -> str:
        """Return what computes on a board of this march, such as ``CPU (onnxruntime)``."""
        ...

    def fingerprint(self, options: Any) -> Fingerprint:
        """Return the tool's name and version; must not import or start anything heavy.

        Raises:
            ToolMissing: the tool that ``options`` selects is not on this machine. The plan then ends before compile.
        """
        ...

    def compile(self, work: StepContext, inputs: CompileInputs, options: Any) -> Path:
        """Write the binary under ``work.dir`` and return its path.

        Raises:
            StageError: the compiler fails; the message has its last output.
        """
        ...


@runtime_checkable
class SimulatingBackend(Backend, Protocol):
    """A backend that can run what its binary computes on this machine, bit-exactly."""

    def simulates(self, options: Any) -> bool:
        """Return whether it can with these options; then ``compile`` also writes ``work.dir / SIMULATOR``."""
        ...

    def integers(
        self, work: StepContext, inputs: CompileInputs, pixels: NDArray[np.uint8], options: Any
    ) -> NDArray[np.float32]:
        """Return the logits that a binary of ``inputs`` would compute, float32 (N, classes), without compiling it.

        Args:
            pixels: uint8 RGB (N, H, W, 3) after resize and crop.

        Raises:
            StageError: it fails.
        """
        ...

    def tensors(
        self, work: StepContext, simulator: Artifact, pixels: NDArray[np.uint8], options: Any
    ) -> Iterator[dict[str, NDArray[np.integer]]]:
        """Yield the integers of every tensor that a node computes, by its name, for one image after another.

        Raises:
            StageError: it fails.
        """
        ...

    def profile(self, findings: Path) -> Profile:
        """Return the compiler's estimate, from the findings of ``compile``."""
        ...

    def simulate(self, work: StepContext, inputs: SimulationInputs, options: Any) -> NDArray[np.float32]:
        """Return the binary's logits, float32 (N, classes), and emit progress.

        Raises:
            StageError: it fails, or a run of the binary itself gives other integers.
        """
        ...
