"""What was measured on a board, with everything needed to trust it."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Provenance(StrEnum):
    """How a figure came to be; comparisons never mix them."""

    MEASURED = "measured"
    SIMULATED = "simulated"
    PREDICTED = "predicted"


class Interval(BaseModel):
    """A value with its 95 % confidence interval, in the unit of the field that holds it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    value: float
    low: float
    high: float


class Latency(BaseModel):
    """Single-stream latencies in ms, warm-up excluded."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    p50_ms: Interval
    p90_ms: Interval
    p99_ms: Interval
    mean_ms: float
    std_ms: float
    min_ms: float
    max_ms: float
    frames: int
    fps: float
    samples_ms: tuple[float, ...]


class BoardFacts(BaseModel):
    """What the board said of itself before the run; None where it could not be read."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    hostname: str
    machine: str
    cpu: str | None
    cores: int
    memory_mb: int | None
    os: str
    python: str
    runtime: str
    temperature_c: float | None
    governor: str | None
    load_1min: float | None


class Measurement(BaseModel):
    """One benchmark of one release on one board. ``logits`` are (N, classes) as the board gave them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    provenance: Provenance
    device: str
    """What computed: "CPU (onnxruntime)" or a BPU."""
    board: str
    release: str
    facts: BoardFacts
    latency: Latency
    batch: int = 1
    """Images a frame: ``latency`` is for all of them together, its fps counts images."""
    images: int
    correct: int
    logits: tuple[tuple[float, ...], ...]
    peak_memory_mb: float
    load_seconds: float
    warmup_frames: int
