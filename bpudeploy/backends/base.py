"""What a compile backend is. Third parties add one by an entry point in ``bpudeploy.backends``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from bpudeploy.stage import Artifact, Fingerprint, Work


class Runtime(StrEnum):
    """What loads the compiled binary on the board; the agent has one driver for each."""

    ONNXRUNTIME = "onnxruntime"


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

    The board's contract: the binary takes one uint8 tensor (N, H, W, 3), RGB after resize and crop, N being
    the recipe's ``model.batch``, and gives float32 logits (N, classes). Mean and scale are inside the binary.
    """

    name: str
    version: int
    runtime: Runtime

    @property
    def options_type(self) -> type[BaseModel]:
        """The frozen model of ``compile:``'s section of this backend's name."""
        ...

    def fingerprint(self) -> Fingerprint:
        """Return the tool's name and version; must not import or start anything heavy."""
        ...

    def compile(self, work: Work, inputs: CompileInputs, options: Any) -> Path:
        """Write the binary under ``work.dir`` and return its path.

        Raises:
            StageError: the compiler refuses; the message holds its last words.
        """
        ...
