"""The results of one run as one value: the terminal, --json and report.html show it."""

from __future__ import annotations

from enum import StrEnum

from bpudeploy.conformance.report import Inspection
from bpudeploy.predict.estimate import Estimate
from bpudeploy.provenance import Provenance
from bpudeploy.quantize.agreement import Agreement
from bpudeploy.quantize.findings import LayerReport, RepairReport, change_text
from bpudeploy.results.golden import SelfCheck
from bpudeploy.results.measurement import FrozenModel, Interval, Measurement
from bpudeploy.spec.precision import Precision


class Verdict(StrEnum):
    """The result of a test at 5 %: the exact McNemar test for accuracy, an interval that excludes 0 for latency."""

    WORSE = "worse"
    BETTER = "better"
    CANNOT_TELL = "cannot tell"


class AccuracyDrop(FrozenModel):
    """Accuracy lost against a reference on the same images, in percentage points; positive: worse.

    Reports show ``change``, which has the opposite sign.
    """

    points: Interval
    """With the adjusted Wald interval for pairs."""
    bootstrap: Interval
    """The same loss with the paired bootstrap interval."""
    lost: int
    """Images that only the reference gets right."""
    gained: int
    """Images that the reference gets wrong and this one right."""
    p_value: float
    """Of the exact McNemar test."""
    verdict: Verdict
    detectable: float
    """Minimum detectable difference: the smallest that is significant with as many discordant images (at least six)."""

    @property
    def change(self) -> Interval:
        """New accuracy minus the reference's, in points; negative: worse."""
        return _negated(self.points)

    @property
    def bootstrap_change(self) -> Interval:
        """``change`` with the bootstrap interval."""
        return _negated(self.bootstrap)


def _negated(value: Interval) -> Interval:
    return Interval(value=0 - value.value, low=0 - value.high, high=0 - value.low)


class Accuracy(FrozenModel):
    """Accuracy of one form of the network on the evaluation set, in percent."""

    form: str
    where: str
    top1: Interval
    top5: Interval | None
    """None if there are at most five classes."""
    correct: int
    images: int
    drop: AccuracyDrop | None
    """None for float itself."""
    agreement: float | None
    """Percent of images with float's top-1 class; None for float itself."""
    provenance: Provenance

    @property
    def text(self) -> str:
        """Top-1, float's and the signed difference: "87.0 % (float 86.5, +0.5)"."""
        if self.drop is None:
            return f"{self.top1.value:.1f} %"
        change = self.drop.change.value
        return f"{self.top1.value:.1f} % (float {self.top1.value - change:.1f}, {change:+z.1f})"


class Step(FrozenModel):
    """One executed step of the plan."""

    name: str
    cache: str
    seconds: float
    peak_mb: float | None
    digests: tuple[str, ...]
    bytes: int


class Gate(FrozenModel):
    """A gate of ``check:``, and whether it holds."""

    name: str
    limit: float
    value: float
    unit: str
    on: str = "on the board"
    """The row of accuracies, or the device, that it counts on."""
    holds: bool

    @property
    def limit_text(self) -> str:
        """The limit in words; that of ``max_drop`` says below what."""
        below = "at most {} below float" if self.name == "max_drop" else "{}"
        return below.format(f"{self.limit:g} {self.unit}")

    @property
    def value_text(self) -> str:
        """The value with its unit; that of ``max_drop`` is signed, new accuracy minus float's."""
        return f"{change_text(self.value)} {self.unit}" if self.name == "max_drop" else f"{self.value:.3g} {self.unit}"


class Install(FrozenModel):
    """The result of the installation on the board."""

    changed: bool
    bytes_sent: int
    seconds: float


class Quantization(FrozenModel):
    """How the network that went to the board was quantized."""

    levers: tuple[str, ...]
    """The techniques applied, in order."""
    taps: dict[Precision, int]
    """Number of tensors per number format."""
    layers: LayerReport
    integers: Agreement
    """How closely onnxruntime, which the accuracy is measured with, matches a BPU's integer arithmetic."""
    repair: RepairReport | None
    """None if ``max_drop`` is not set or repair is off."""


class Summary(FrozenModel):
    """One run of a recipe."""

    schema_version: int = 8
    recipe: str
    target: str
    backend: str
    started: str
    """UTC, ISO 8601."""
    release: str
    preprocess: str
    warnings: tuple[str, ...]
    """Problems of the calibration set, file by file."""
    proof_difference: float
    """Largest |restructured - float| over the range of the float logits."""
    proof_images: int
    accuracy: tuple[Accuracy, ...]
    quantization: Quantization | None
    measurement: Measurement
    """For a simulated target: the time of the simulator on this machine's CPU, not of a board."""
    predicted: Estimate | None = None
    """For a simulated target: the latency predicted for its board."""
    install: Install
    self_check: SelfCheck
    """After the release was activated."""
    steps: tuple[Step, ...]
    gates: tuple[Gate, ...]
    sizes: dict[str, int]
    """Bytes per artifact."""
    placement: Inspection | None
    """Where the graph's operators would run: on the target, or on another one (what-if) if it has no BPU."""
    versions: dict[str, str]
    run_directory: str

    @property
    def holds(self) -> bool:
        """Whether every gate holds."""
        return all(gate.holds for gate in self.gates)
