"""Everything one run has to say, as one frozen value: the terminal, --json and report.html draw it."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from bpudeploy.conformance.report import Inspection
from bpudeploy.predict.estimate import Estimate
from bpudeploy.provenance import Provenance
from bpudeploy.quantize.agreement import Agreement
from bpudeploy.quantize.findings import LayerReport, RepairReport
from bpudeploy.results.golden import SelfCheck
from bpudeploy.results.measurement import Interval, Measurement
from bpudeploy.spec.precision import Precision


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Verdict(StrEnum):
    """What a test at 5 % says: of accuracy the exact McNemar test, of latency an interval that excludes no change."""

    WORSE = "worse"
    BETTER = "better"
    CANNOT_TELL = "cannot tell"


class Drop(_Value):
    """Loss against float on the same images, in percentage points (positive: worse than float)."""

    points: Interval
    """With the adjusted Wald interval."""
    bootstrap: Interval
    """The same loss with the paired bootstrap's interval."""
    lost: int
    """Images that only float gets right."""
    gained: int
    """Images that only this form gets right."""
    p_value: float
    """Exact McNemar test on the lost and the gained images."""
    verdict: Verdict
    detectable: float
    """The smallest loss, in points, that is significant where as many images are lost or gained (at least six)."""


class Accuracy(_Value):
    """Top-1 of one form of the network over the evaluation set, in percent."""

    form: str
    where: str
    top1: Interval
    top5: Interval | None
    """None where there are five classes or fewer."""
    correct: int
    images: int
    drop: Drop | None
    """None for float itself."""
    agreement: float | None
    """Percent of images whose top-1 is float's; None for float itself."""
    provenance: Provenance


class Step(_Value):
    """One step of the plan as it went."""

    name: str
    cache: str
    seconds: float
    peak_mb: float | None
    digests: tuple[str, ...]
    bytes: int


class Gate(_Value):
    """One gate of ``check:``."""

    name: str
    limit: float
    value: float
    unit: str
    holds: bool


class Install(_Value):
    """What push did."""

    changed: bool
    bytes_sent: int
    seconds: float


class Quantization(_Value):
    """How the network that went to the board was quantized."""

    levers: tuple[str, ...]
    """What was done, in order."""
    taps: dict[Precision, int]
    """Number format to how many tensors are rounded to it."""
    layers: LayerReport
    integers: Agreement
    """How far onnxruntime's run of it, by which its accuracy is measured, is from a BPU's integers."""
    repair: RepairReport | None
    """None where no drop was promised, or repair was off."""


class Summary(_Value):
    """One run of one recipe, from sources to board."""

    schema_version: int = 7
    recipe: str
    target: str
    backend: str
    started: str
    """UTC, ISO 8601."""
    release: str
    preprocess: str
    warnings: tuple[str, ...]
    """What is wrong with the calibration set, file by file."""
    proof_difference: float
    """Worst |restructured - float| over the range of the float logits."""
    proof_images: int
    accuracy: tuple[Accuracy, ...]
    quantization: Quantization | None
    measurement: Measurement
    """Of a simulated target: what the simulator took on this machine's CPU. That says nothing of a board."""
    predicted: Estimate | None = None
    """Of a simulated target: the latency that is predicted for its board."""
    install: Install
    self_check: SelfCheck
    """The board's answers to the golden images, after the release was activated."""
    steps: tuple[Step, ...]
    gates: tuple[Gate, ...]
    sizes: dict[str, int]
    """Artifact to bytes."""
    placement: Inspection | None
    """Where the graph's operators would run: on the target, or (a what-if) on another one where it has no BPU."""
    versions: dict[str, str]
    run_directory: str

    @property
    def holds(self) -> bool:
        """Whether every gate holds."""
        return all(gate.holds for gate in self.gates)
