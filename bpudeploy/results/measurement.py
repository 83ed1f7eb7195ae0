"""What was measured on a board, with everything needed to trust it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, JsonValue

from bpudeploy.provenance import Provenance
from bpudeploy.spec.recipe import BenchmarkSpec


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Caveat(StrEnum):
    """What was not as it should be while it was measured. A figure is shown with it, never averaged away."""

    THROTTLED = "throttled"
    HOT = "hot"
    NOISY = "noisy"
    UNHELD = "unheld"
    INTERRUPTED = "interrupted"
    REBOOTED = "rebooted"
    SHORT = "short"

    @property
    def meaning(self) -> str:
        """What was wrong, in words."""
        return _MEANINGS[self]


_MEANINGS = {
    Caveat.THROTTLED: "a clock ran below its maximum, though its governor holds it there",
    Caveat.HOT: "it did not cool down in the time that it was given",
    Caveat.NOISY: "other processes kept a part of its CPU busy",
    Caveat.UNHELD: "its governor lets the clocks move",
    Caveat.INTERRUPTED: "the connection was lost in between, and it went on later",
    Caveat.REBOOTED: "the board was started anew in between",
    Caveat.SHORT: "time ran out before the frames or the precision that were asked for",
}


class Interval(_Value):
    """A value with its 95 % confidence interval, in the unit of the field that holds it."""

    value: float
    low: float
    high: float


class Percentile(_Value):
    """A percentile with its 95 % interval; ``high`` is None where so few frames bound it from below only."""

    value: float
    low: float
    high: float | None


class Latency(_Value):
    """Single-stream latencies in ms a frame, warm-up excluded, over all rounds.

    p90 and p99 are None where only a tool of the board can time, and tells means.
    """

    p50_ms: Interval
    p90_ms: Percentile | None
    p99_ms: Percentile | None
    mean_ms: float
    std_ms: float
    min_ms: float
    max_ms: float
    frames: int
    fps: float
    """Images a second, one frame after another."""


class Round(_Value):
    """One stretch of frames after one load of the network and its warm-up."""

    index: int
    """Rounds of the same index in one session are a pair."""
    place: int
    """When it ran among all rounds of its session, from 0."""
    started_s: float
    """Since the session began; for one that was cut, since it first began."""
    load_seconds: float
    frames: int
    per_sample: int = 1
    """Frames that each of ``samples_ms`` is the mean of; more than one where only a tool of the board can time."""
    samples_ms: tuple[float, ...]
    hottest_c: float | None = None
    others_cores: float | None = None
    """Cores that other processes kept busy, on average."""
    caveats: tuple[Caveat, ...] = ()


class Throughput(_Value):
    """Images a second with so many frames in flight at once."""

    streams: int
    fps: Interval
    rounds: tuple[float, ...]


class Clock(_Value):
    """A clock in Hz, and its maximum."""

    cur: float
    max: float


class Conditions(_Value):
    """What the sensors said at one moment; a sensor that is not there is not named."""

    at_s: float
    """Since the session began."""
    during: str
    """Which part of the measurement it was in."""
    temperatures_c: Mapping[str, float]
    clocks_hz: Mapping[str, Clock]
    bpu_busy: Mapping[str, float]
    """Percent."""
    governors: Mapping[str, str]
    load_1min: float
    others_cores: float | None


class LayerCost(_Value):
    """What one part of the network takes, ms a frame, as the runtime's own profiler says."""

    name: str
    op: str | None
    where: str
    ms: float


class BoardFacts(_Value):
    """What the board said of itself before the run; None where it could not be read."""

    hostname: str
    machine: str
    cpu: str | None
    cores: int
    memory_mb: int | None
    os: str
    python: str
    board_id: str | None
    """The SoC's serial number, else the system's machine-id."""


class Answers(_Value):
    """What the board answered to each image of the evaluation set, in its order."""

    samples: str
    """Digest of the images and labels."""
    labels: tuple[int, ...]
    top: tuple[tuple[int, ...], ...]
    """Classes, the best first: at most five an image."""

    @property
    def right(self) -> tuple[bool, ...]:
        """Whether the best class is the label, image by image."""
        return tuple(top[0] == label for top, label in zip(self.top, self.labels, strict=True))


class Score(_Value):
    """How many of the images the board gets right, in percent, and how often it agrees with the host."""

    images: int
    top1: Interval
    top5: Interval | None
    """None where there are five classes or fewer."""
    as_host: Interval | None
    """Images whose best class is that of the host's integer reference."""


class Subject(_Value):
    """What was measured: a release, or a release-like binary."""

    recipe: str
    target: str
    march: str
    backend: str
    release: str
    binary: str


class StepFacts(_Value):
    """One step of the plan that built a release: everything that its key was made of, and what it gave."""

    parts: Mapping[str, JsonValue]
    digests: tuple[str, ...]


class BuildFacts(_Value):
    """How a release came to be: what a later one is held against, to say what has changed between them."""

    binary_bytes: int
    compiled: int
    """Seconds since 1970, by the clock of the machine that compiled it; 0 where it is not known."""
    compile_seconds: float
    """When it was compiled; a release that comes from the store was not compiled again."""
    commit: str | None
    """Of the recipe's repository; with ``+changes`` where its files differ from that commit. None: no repository."""
    steps: Mapping[str, StepFacts]


class Measurement(_Value):
    """One benchmark of one release on one board."""

    provenance: Provenance
    session: str
    """Measurements of one session ran in turns, round by round."""
    made: str
    """UTC, ISO 8601: when the session began."""
    subject: Subject
    board: str
    """The address it was reached at, or the target's name for a board that a run starts itself."""
    board_id: str
    """The SoC's serial number where it has one; else machine and host name."""
    device: str
    """What computed: "CPU (onnxruntime)" or a BPU."""
    runtime: str
    """The runtime on the board with its version."""
    facts: BoardFacts | None
    method: BenchmarkSpec | None
    """None for a prediction."""
    batch: int = 1
    """Images a frame: ``latency`` is for all of them together, its fps counts images."""
    latency: Latency | None
    """None where nothing was measured: a simulated board has none."""
    predicted_ms: Interval | None = None
    """Of a prediction, and of nothing else."""
    load_ms: Interval | None = None
    rounds: tuple[Round, ...] = ()
    throughput: tuple[Throughput, ...] = ()
    conditions: tuple[Conditions, ...] = ()
    caveats: tuple[Caveat, ...] = ()
    layers: tuple[LayerCost, ...] = ()
    score: Score | None = None
    answers: Answers | None = None
    peak_memory_mb: float | None = None
    versions: Mapping[str, str] = {}
    """Tools of the host that built and measured."""
    build: BuildFacts | None = None
    """None where it is not known: of releases that an older bpudeploy built."""
    night: str | None = None
    """SUITE/WHEN of the night that judged it; None for any other, and for a baseline that ran in turns with it."""

    @property
    def samples_ms(self) -> tuple[float, ...]:
        """Every timed sample, in the order of the rounds."""
        return tuple(ms for one in self.rounds for ms in one.samples_ms)
