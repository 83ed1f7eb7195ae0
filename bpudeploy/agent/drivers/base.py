"""What a runtime is to the agent: a network that was loaded, and is run on one frame or timed by its own tool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Protocol, Sequence


class Refused(Exception):
    """The board cannot do what it was asked; ``hint`` says what would help. The agent lives on."""

    def __init__(self, why: str, hint: str) -> None:
        super().__init__(why)
        self.hint = hint


class Unsuitable(Refused):
    """This runtime is not there or cannot run the file; another one of the board may."""


@dataclass(frozen=True)
class Timed:
    """What a tool says of ``frames`` frames that it ran itself, ``streams`` at a time: milliseconds a frame."""

    frames: int
    streams: int
    mean_ms: float
    min_ms: float
    max_ms: float
    fps: float


@dataclass(frozen=True)
class Layer:
    """What one part of the network takes, in ms a frame: a node, or a vendor's subgraph on the BPU or the CPU."""

    name: str
    op: Optional[str]
    where: str  # "bpu", "cpu" or "runtime" (copies, scheduling)
    ms: float


class Session(Protocol):
    """A network that a runtime has loaded. Used by one thread, but for ``infer``, which ``streams`` of them may call.

    A driver is a function ``open_session(model: str, threads: int) -> Session``; it raises Refused where the board
    lacks the runtime or the file is none of it.
    """

    driver: str
    """Its name: onnxruntime, hobot_dnn, hbm_runtime or hrt_model_exec."""
    runtime: str
    """The runtime and its version, as it says it of itself."""
    batch: int
    """Images a frame."""
    times_frames: bool
    """``infer`` can be timed from here; where not, only ``timed`` says anything of latency."""
    parallel: bool
    """Several threads' ``infer`` run at once; where not, only ``timed`` says anything of several frames at once."""
    has_tool: bool
    """``timed`` works here."""

    def prepare(self, pixels: Any) -> Any:
        """Return what ``infer`` takes, of RGB uint8 (batch, H, W, 3). Never part of a latency."""
        ...

    def infer(self, fed: Any) -> Any:
        """Return the logits, float32 (batch, classes)."""
        ...

    def reserve(self, streams: int) -> None:
        """Get ready for so many calls of ``infer`` at once."""
        ...

    def timed(self, frames: int, streams: int) -> Timed:
        """Have the runtime's own tool run frames of its own making.

        Raises:
            Refused: it has none.
        """
        ...

    def layers(self, frames: Sequence[Any]) -> list[Layer]:
        """Return what each part takes, over ``frames`` as ``prepare`` gives them; empty where nothing tells.

        It may load the network again, and is never asked between timed frames.
        """
        ...

    def close(self) -> None:
        """Give the network's memory back."""
        ...
