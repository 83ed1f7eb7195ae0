"""What a compile backend is. Third parties add one by an entry point in ``bpudeploy.backends``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from bpudeploy.errors import UsageError
from bpudeploy.provenance import Provenance
from bpudeploy.stage import Artifact, Fingerprint, Work

FINDINGS = "findings.json"
"""What a backend that finds something out writes in ``work.dir``, beside its binary."""


class ToolMissing(UsageError):
    """A backend's compiler is not on this machine; the hint says how to get it."""


@dataclass(frozen=True)
class CompileInputs:
    """Everything a compiler may want; each backend reads what it needs."""

    graph: Artifact  # GRAPH: the restructured float network
    quantized: Artifact  # QUANTIZED: QDQ, same node names
    calibration: Artifact  # SAMPLES
    preprocess: Artifact  # PREPROCESS
    march: str  # the target's


class Backend(Protocol):
    """A compiler for some marches. Instances hold no state; options are a frozen pydantic model.

    The board's contract: the binary takes one image tensor, RGB after resize and crop, N of them being the
    recipe's ``model.batch``, and gives float32 logits (N, classes). Mean and scale are inside the binary. For
    onnxruntime the tensor is uint8 (N, H, W, 3); a vendor's binary may ask for NV12 instead.
    """

    name: str
    version: int
    runtime: str
    """What loads the binary on the board: the name of a driver, of the agent or ``driver`` below."""
    provenance: Provenance
    """What a latency from its boards is: measured, or simulated."""
    deterministic: bool
    """The same inputs give the same bytes; where not, the store keeps the first that were made."""
    findings: bool
    """``compile`` also writes ``work.dir / FINDINGS``."""

    @property
    def options_type(self) -> type[BaseModel]:
        """The frozen model of ``compile:``'s section of this backend's name.

        A field with ``exclude=True`` does not change the binary: it is not in the key.
        """
        ...

    def device(self, march: str) -> str:
        """Return what computes on a board of this march, such as ``CPU (onnxruntime)``."""
        ...

    def fingerprint(self, options: Any) -> Fingerprint:
        """Return the tool's name and version; must not import or start anything heavy.

        Raises:
            ToolMissing: the tool that ``options`` name is not on this machine. The plan then ends before compile.
        """
        ...

    def compile(self, work: Work, inputs: CompileInputs, options: Any) -> Path:
        """Write the binary under ``work.dir`` and return its path.

        Raises:
            StageError: the compiler refuses; the message holds its last words.
        """
        ...
