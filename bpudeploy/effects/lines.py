"""What the agent on a board says, line by line, as typed values; anything else is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter

from bpudeploy.results.measurement import BoardFacts, LayerCost

PROTOCOL = 2


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Hello(_Line):
    """The agent is there."""

    kind: Literal["hello"] = Field(alias="is")
    agent: Literal[2]
    boot: str
    """The kernel's name for this start of the board."""
    uptime_s: FiniteFloat
    t: FiniteFloat
    facts: BoardFacts
    healed: tuple[str, ...]
    """Governors that an agent before could not put back."""


class RawClock(_Line):
    """A clock as the board has it: kHz of a CPU, Hz of a BPU."""

    cur: int
    max: int


class Sensors(_Line):
    """One reading of everything that the board tells of itself; ``t`` is its monotonic clock, in seconds."""

    kind: Literal["conditions"] = Field(alias="is")
    t: FiniteFloat
    temperatures_c: Mapping[str, FiniteFloat]
    cpu_khz: Mapping[str, RawClock]
    bpu_hz: Mapping[str, RawClock]
    bpu_busy: Mapping[str, FiniteFloat]
    governors: Mapping[str, str]
    load_1min: FiniteFloat
    others_cores: FiniteFloat | None


class Governors(_Line):
    """What became of the clocks."""

    kind: Literal["governors"] = Field(alias="is")
    before: Mapping[str, str]
    now: Mapping[str, str]
    refused: str | None


class Loaded(_Line):
    """A network is ready."""

    kind: Literal["loaded"] = Field(alias="is")
    seconds: FiniteFloat
    batch: int
    driver: str
    runtime: str
    frames_timed: bool
    images: int
    streams: bool
    """Several frames at once can be measured."""


class Frames(_Line):
    """Latencies of single frames, ms."""

    kind: Literal["frames"] = Field(alias="is")
    ms: tuple[Annotated[FiniteFloat, Field(gt=0)], ...]


class ToolTimed(_Line):
    """What a tool of the board says of frames that it ran itself."""

    kind: Literal["timed"] = Field(alias="is")
    frames: int
    streams: int
    mean_ms: Annotated[FiniteFloat, Field(gt=0)]
    min_ms: FiniteFloat
    max_ms: FiniteFloat
    fps: Annotated[FiniteFloat, Field(gt=0)]


class Top(_Line):
    """The best classes of images, from ``first`` on."""

    kind: Literal["answers"] = Field(alias="is")
    first: int
    classes: tuple[tuple[int, ...], ...]
    scores: tuple[tuple[FiniteFloat, ...], ...]


class Logits(_Line):
    """All logits of images, from ``first`` on."""

    kind: Literal["logits"] = Field(alias="is")
    first: int
    values: tuple[tuple[FiniteFloat, ...], ...]


class LayerCosts(_Line):
    """What each part of the network takes."""

    kind: Literal["layers"] = Field(alias="is")
    layers: tuple[LayerCost, ...]


class Done(_Line):
    """A command has ended well."""

    kind: Literal["done"] = Field(alias="is")
    frames: int | None = None
    seconds: FiniteFloat | None = None
    started: FiniteFloat | None = None
    ended: FiniteFloat | None = None
    images: int | None = None
    peak_memory_mb: FiniteFloat | None = None


class Failed(_Line):
    """A command could not be carried out."""

    kind: Literal["failed"] = Field(alias="is")
    why: str
    hint: str | None = None


Line = Hello | Sensors | Governors | Loaded | Frames | ToolTimed | Top | Logits | LayerCosts | Done | Failed
LINE: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="kind")])
