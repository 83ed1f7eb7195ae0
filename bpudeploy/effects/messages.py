"""Messages of the agent on a board, one JSON object per line; unknown ones are rejected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, TypeAdapter

from bpudeploy.results.measurement import BoardFacts, FrozenModel, LayerCost

PROTOCOL = 2


class Hello(FrozenModel):
    """First message: the agent has started."""

    kind: Literal["hello"] = Field(alias="is")
    agent: Literal[2]
    boot: str
    """The kernel's boot id."""
    uptime_s: FiniteFloat
    t: FiniteFloat
    facts: BoardFacts
    healed: tuple[str, ...]
    """Governors that an earlier agent had left changed, and that this one restored."""


class RawClock(FrozenModel):
    """Current and maximum frequency: kHz for a CPU, Hz for a BPU."""

    cur: int
    max: int


class Sensors(FrozenModel):
    """One reading of all sensors; ``t`` is the board's monotonic clock in seconds."""

    kind: Literal["conditions"] = Field(alias="is")
    t: FiniteFloat
    temperatures_c: Mapping[str, FiniteFloat]
    cpu_khz: Mapping[str, RawClock]
    bpu_hz: Mapping[str, RawClock]
    bpu_busy: Mapping[str, FiniteFloat]
    governors: Mapping[str, str]
    load_1min: FiniteFloat
    others_cores: FiniteFloat | None


class Governors(FrozenModel):
    """Result of locking the clocks to their maximum."""

    kind: Literal["governors"] = Field(alias="is")
    before: Mapping[str, str]
    now: Mapping[str, str]
    refused: str | None


class ModelLoaded(FrozenModel):
    """A model is loaded."""

    kind: Literal["loaded"] = Field(alias="is")
    seconds: FiniteFloat
    batch: int
    driver: str
    runtime: str
    frames_timed: bool
    images: int
    streams: bool
    """Whether throughput with several concurrent streams can be measured."""


class FrameLatencies(FrozenModel):
    """Latencies of single frames, ms."""

    kind: Literal["frames"] = Field(alias="is")
    ms: tuple[Annotated[FiniteFloat, Field(gt=0)], ...]


class ToolTiming(FrozenModel):
    """Timing of frames that a vendor tool ran by itself."""

    kind: Literal["timed"] = Field(alias="is")
    frames: int
    streams: int
    mean_ms: Annotated[FiniteFloat, Field(gt=0)]
    min_ms: FiniteFloat
    max_ms: FiniteFloat
    fps: Annotated[FiniteFloat, Field(gt=0)]


class TopClasses(FrozenModel):
    """The top classes of consecutive images, starting at image ``first``."""

    kind: Literal["answers"] = Field(alias="is")
    first: int
    classes: tuple[tuple[int, ...], ...]
    scores: tuple[tuple[FiniteFloat, ...], ...]


class Logits(FrozenModel):
    """All logits of consecutive images, starting at image ``first``."""

    kind: Literal["logits"] = Field(alias="is")
    first: int
    values: tuple[tuple[FiniteFloat, ...], ...]


class LayerCosts(FrozenModel):
    """Time per layer."""

    kind: Literal["layers"] = Field(alias="is")
    layers: tuple[LayerCost, ...]


class CommandDone(FrozenModel):
    """A command succeeded."""

    kind: Literal["done"] = Field(alias="is")
    frames: int | None = None
    seconds: FiniteFloat | None = None
    started: FiniteFloat | None = None
    ended: FiniteFloat | None = None
    images: int | None = None
    peak_memory_mb: FiniteFloat | None = None


class CommandFailed(FrozenModel):
    """A command failed."""

    kind: Literal["failed"] = Field(alias="is")
    why: str
    hint: str | None = None


Message = (
    Hello
    | Sensors
    | Governors
    | ModelLoaded
    | FrameLatencies
    | ToolTiming
    | TopClasses
    | Logits
    | LayerCosts
    | CommandDone
    | CommandFailed
)
MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])
