"""Measurements of a release on a board, with everything needed to trust them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, JsonValue

from bpudeploy.provenance import Provenance
from bpudeploy.spec.recipe import BenchmarkSpec


class FrozenModel(BaseModel):
    """An immutable value; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Caveat(StrEnum):
    """What went wrong during a measurement. Figures are shown with it, never corrected for it."""

    THROTTLED = "throttled"
    HOT = "hot"
    NOISY = "noisy"
    UNHELD = "unheld"
    INTERRUPTED = "interrupted"
    REBOOTED = "rebooted"
    SHORT = "short"

    @property
    def meaning(self) -> str:
        """The explanation that reports show."""
        return _MEANINGS[self]


_INVALIDATING = (Caveat.THROTTLED, Caveat.HOT, Caveat.REBOOTED)
_MEANINGS = {
    Caveat.THROTTLED: "a clock ran below its maximum, although its governor is set to performance",
    Caveat.HOT: "the board did not cool down within `cool_seconds`",
    Caveat.NOISY: "other processes used the board's CPU",
    Caveat.UNHELD: "clocks were not locked: the governor may change them",
    Caveat.INTERRUPTED: "the connection was lost, and the session was resumed later",
    Caveat.REBOOTED: "the board rebooted during the session",
    Caveat.SHORT: "`max_seconds` elapsed before the required frames or precision were reached",
}


class Interval(FrozenModel):
    """A value with its 95 % confidence interval, in the unit of its field."""

    value: float
    low: float
    high: float


class Percentile(FrozenModel):
    """A percentile with its 95 % interval; ``high`` is None if there are too few frames for an upper bound."""

    value: float
    low: float
    high: float | None


class Latency(FrozenModel):
    """Single-stream latencies in ms per frame over all rounds, without warm-up.

    p90 and p99 are None if the board's tool reports only means.
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
    """Images per second, one frame after another."""


class Round(FrozenModel):
    """The frames timed after one load of the network and its warm-up."""

    index: int
    """Rounds of the same index in one session are a pair."""
    place: int
    """Its position among all rounds of the session, from 0."""
    started_s: float
    """Since the session first began, also if it was resumed."""
    load_seconds: float
    frames: int
    per_sample: int = 1
    """Frames that each of ``samples_ms`` is the mean of; more than one if only the board's tool can time."""
    samples_ms: tuple[float, ...]
    hottest_c: float | None = None
    others_cores: float | None = None
    """Average number of cores used by other processes."""
    caveats: tuple[Caveat, ...] = ()


class Throughput(FrozenModel):
    """Images per second with ``streams`` frames in flight."""

    streams: int
    fps: Interval
    rounds: tuple[float, ...]


class Clock(FrozenModel):
    """A clock and its maximum, in Hz."""

    cur: float
    max: float


class Conditions(FrozenModel):
    """One reading of the sensors; sensors that the board lacks are left out."""

    at_s: float
    """Since the session began."""
    during: str
    """The part of the measurement, such as a round."""
    temperatures_c: Mapping[str, float]
    clocks_hz: Mapping[str, Clock]
    bpu_busy: Mapping[str, float]
    """Percent."""
    governors: Mapping[str, str]
    load_1min: float
    others_cores: float | None


class LayerCost(FrozenModel):
    """Time of one layer in ms per frame, from the runtime's profiler."""

    name: str
    op: str | None
    where: str
    ms: float


class BoardFacts(FrozenModel):
    """What the board reported before the run; None if it could not be read."""

    hostname: str
    machine: str
    cpu: str | None
    cores: int
    memory_mb: int | None
    os: str
    python: str
    board_id: str | None
    """The SoC's serial number, else the system's machine-id."""


class Answers(FrozenModel):
    """The board's top classes for each image of the evaluation set, in its order."""

    samples: str
    """Digest of the images and labels."""
    labels: tuple[int, ...]
    top: tuple[tuple[int, ...], ...]
    """At most five classes per image, best first."""

    @property
    def right(self) -> tuple[bool, ...]:
        """Whether the top-1 class is the label, image by image."""
        return tuple(top[0] == label for top, label in zip(self.top, self.labels, strict=True))


class Score(FrozenModel):
    """Accuracy on the board, and agreement with the host, in percent."""

    images: int
    top1: Interval
    top5: Interval | None
    """None if there are at most five classes."""
    as_host: Interval | None
    """Images with the same top-1 class as the host's integer reference."""


class Subject(FrozenModel):
    """The release that was measured."""

    recipe: str
    target: str
    march: str
    backend: str
    release: str
    binary: str


class StepFacts(FrozenModel):
    """One step of the plan that built a release: the parts of its key, and the digests of its artifacts."""

    parts: Mapping[str, JsonValue]
    digests: tuple[str, ...]


class BuildFacts(FrozenModel):
    """How a release was built; compared with that of a later release to list what changed."""

    binary_bytes: int
    compiled: int
    """Unix time on the machine that compiled it; 0: not known."""
    compile_seconds: float
    """Of the original compilation, also if the release came from the store."""
    commit: str | None
    """Of the recipe's repository, with ``+changes`` if its files differ from that commit. None: no repository."""
    steps: Mapping[str, StepFacts]


class Measurement(FrozenModel):
    """One benchmark of a release on a board."""

    provenance: Provenance
    session: str
    """Measurements of one session were interleaved, round by round."""
    made: str
    """Start of the session: UTC, ISO 8601."""
    subject: Subject
    board: str
    """The address, or the target's name for a board that the run starts itself."""
    board_id: str
    """The SoC's serial number, else machine and host name."""
    device: str
    """The processor, such as "CPU (onnxruntime)" or a BPU."""
    runtime: str
    """With its version."""
    facts: BoardFacts | None
    method: BenchmarkSpec | None
    """None for a prediction."""
    batch: int = 1
    """Images per frame: ``latency`` is for all of them together, its fps counts images."""
    latency: Latency | None
    """None if nothing was timed, as for a simulated board."""
    predicted_ms: Interval | None = None
    """Only for a prediction."""
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
    """Versions of the host's tools."""
    build: BuildFacts | None = None
    """None for a release that an older bpudeploy built."""
    night: str | None = None
    """SUITE/WHEN of its nightly run; None for others, and for a baseline interleaved with it."""

    @property
    def invalidating(self) -> tuple[Caveat, ...]:
        """The caveats that invalidate its latencies: the conditions changed during the measurement."""
        return tuple(c for c in _INVALIDATING if c in self.caveats)

    @property
    def samples_ms(self) -> tuple[float, ...]:
        """Every timed sample, in the order of the rounds."""
        return tuple(ms for one in self.rounds for ms in one.samples_ms)
