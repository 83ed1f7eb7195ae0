"""The interface of a driver: a loaded network that runs one frame, or is timed by the runtime's own tool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Protocol, Sequence


class Refused(Exception):
    """The board cannot run a command; ``hint`` says how to fix that. The agent continues."""

    def __init__(self, why: str, hint: str) -> None:
        super().__init__(why)
        self.hint = hint


class Unsuitable(Refused):
    """This runtime is missing or cannot run the file; another one on the board may."""


@dataclass(frozen=True)
class ToolTiming:
    """Timing by the runtime's tool of ``frames`` frames, with ``streams`` in parallel; ms per frame."""

    frames: int
    streams: int
    mean_ms: float
    min_ms: float
    max_ms: float
    fps: float


@dataclass(frozen=True)
class Layer:
    """Time of one part of the network, in ms per frame: a node, or a vendor's subgraph on the BPU or the CPU."""

    name: str
    op: Optional[str]
    where: str  # "bpu", "cpu" or "runtime" (copies, scheduling)
    ms: float


class Session(Protocol):
    """A loaded network. Not thread-safe, except for ``infer``, which ``streams`` threads may call.

    A driver is a function ``open_session(model: str, threads: int) -> Session``; it raises Refused if the board has
    no such runtime, or the runtime cannot load the file.
    """

    driver: str
    """onnxruntime, hobot_dnn, hbm_runtime or hrt_model_exec."""
    runtime: str
    """Name and version, as the runtime reports them."""
    batch: int
    """Images per frame."""
    times_frames: bool
    """Timing ``infer`` gives the latency; if false, only ``timed`` does."""
    parallel: bool
    """``infer`` runs in parallel in several threads; if false, only ``timed`` measures parallel streams."""
    has_tool: bool
    """``timed`` is available."""

    def prepare(self, pixels: Any) -> Any:
        """Convert RGB uint8 (batch, H, W, 3) to the input of ``infer``. Never part of a latency."""

    def infer(self, inputs: Any) -> Any:
        """Return the logits, float32 (batch, classes)."""

    def reserve(self, streams: int) -> None:
        """Allocate what ``streams`` parallel calls of ``infer`` need."""

    def timed(self, frames: int, streams: int) -> ToolTiming:
        """Have the runtime's own tool time frames that it generates itself.

        Raises:
            Refused: there is no such tool.
        """

    def layers(self, frames: Sequence[Any]) -> list[Layer]:
        """Return the time of each part over ``frames`` (outputs of ``prepare``); empty if there is no profiler.

        It may load the network again, and is never called between timed frames.
        """

    def close(self) -> None:
        """Free the network's memory."""
