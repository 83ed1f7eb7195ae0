"""The artifacts of one recipe by name, independent of the step that made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bpudeploy.backends.base import SCORES_STEP
from bpudeploy.digest import Digest
from bpudeploy.stage import Artifact, Kind
from bpudeploy.stages import repair_binary
from bpudeploy.stages.quantize import QUANTIZE, SCORE_QUANTIZED, TAKE_GOLDEN
from bpudeploy.stages.repair import REPAIR
from bpudeploy.stages.restructure import REFERENCE, RESTRUCTURE
from bpudeploy.stages.samples import SAMPLES
from bpudeploy.store.objects import object_path

MODEL = "fetch/model"
PREPROCESSING = "fetch/preprocess"
EVALUATION = "fetch/evaluation"
CALIBRATION = "fetch/calibration"
HEAD = "head/fit"
FLOAT_SCORES = "restructure/reference"
GRAPH = "restructure"
LAYOUT = "restructure/layout"
QUANTIZED = "quantize"
INT8_SCORES = "quantize/scores"
REPAIRED = "quantize/repair"
GOLDEN = "quantize/golden"
LAYERS = "quantize/layers"
INTEGERS = "quantize/integers"
BINARY = "compile"
BINARY_SCORES = SCORES_STEP
BINARY_REPAIRED = repair_binary.STEP

_RELEASED: Mapping[str, Mapping[str, Kind]] = {
    EVALUATION: SAMPLES.gives,
    FLOAT_SCORES: REFERENCE.gives,
    GRAPH: RESTRUCTURE.gives,
    QUANTIZED: QUANTIZE.gives,
    INT8_SCORES: SCORE_QUANTIZED.gives,
    REPAIRED: REPAIR.gives,
    GOLDEN: TAKE_GOLDEN.gives,
    BINARY: {"binary": Kind.BINARY, "simulator": Kind.SIMULATOR, "findings": Kind.FINDINGS},
    BINARY_SCORES: {"scores": Kind.SCORES},
    BINARY_REPAIRED: repair_binary.GIVES,
}
"""The outputs that measuring a release needs."""


def _given(step: str, count: int) -> list[tuple[str, Kind]]:
    """Return the outputs of a step that has ``count``: a backend without a simulator has findings next."""
    outputs = list(_RELEASED[step].items())
    return [outputs[0], outputs[2]] if step == BINARY and count == 2 else outputs


class _Output:
    """A property: one output of the first of ``steps`` that ran."""

    def __init__(self, output: str, *steps: str) -> None:
        self.output, self.steps = output, steps

    def __get__(self, products: Products, owner: type[Products] | None = None) -> Artifact:
        step = next((name for name in self.steps if name in products.steps), self.steps[-1])
        return products.steps[step][self.output]


@dataclass(frozen=True)
class Products:
    """The outputs of a recipe's steps: ``steps`` is step name to output name to artifact.

    Every property raises KeyError if its step has not run.
    """

    steps: Mapping[str, Mapping[str, Artifact]]

    model = _Output("model", MODEL)
    preprocess = _Output("preprocess", PREPROCESSING)
    evaluation = _Output("samples", EVALUATION)
    calibration = _Output("samples", CALIBRATION)
    head = _Output("head", HEAD)
    """The head from ``fit-head``."""
    float_scores = _Output("scores", FLOAT_SCORES)
    """Scores of the original network."""
    graph = _Output("graph", GRAPH)
    """The exactly restructured float graph."""
    graph_scores = _Output("scores", GRAPH)
    int8_scores = _Output("scores", INT8_SCORES)
    """Scores of the QDQ graph before any repair."""
    layers = _Output("findings", LAYERS)
    """Deviation of each layer of the QDQ graph from float."""
    integers = _Output("findings", INTEGERS)
    """Deviation of integer arithmetic from the QDQ graph."""
    golden_images = _Output("images", GOLDEN)
    golden_logits = _Output("logits", GOLDEN)
    """Logits of the QDQ graph for the golden images."""
    prepared = _Output("prepared", BINARY_REPAIRED, REPAIRED, QUANTIZED)
    """The prepared graph, after repair if any."""
    quantized = _Output("quantized", BINARY_REPAIRED, REPAIRED, QUANTIZED)
    """The QDQ graph that is compiled."""
    binary = _Output("binary", BINARY_REPAIRED, BINARY)
    simulator = _Output("simulator", BINARY_REPAIRED, BINARY)
    """What the backend runs in place of the binary, if it can."""
    compiler_findings = _Output("findings", BINARY_REPAIRED, BINARY)
    """Findings of a backend that reports them."""

    @classmethod
    def of_release(cls, steps: Mapping[str, Sequence[Digest]], store: Path) -> Products:
        """Return the artifacts that a release's manifest names; their files may be missing from the store.

        Args:
            steps: step name to the digests of its outputs, in the order in which its stage declares them.
        """
        return cls(
            {
                step: {
                    output: Artifact(kind, digest, object_path(store, digest))
                    for (output, kind), digest in zip(_given(step, len(steps[step])), steps[step], strict=False)
                }
                for step in _RELEASED
                if step in steps
            }
        )

    def approximated(self, step: str) -> tuple[Artifact, Artifact]:
        """Return the graph that a step ``approximate/...`` made, and its scores."""
        made = self.steps[step]
        return made["graph"], made["scores"]

    @property
    def binary_scores(self) -> Artifact | None:
        """Scores of the binary, simulated bit-exactly; None if the backend cannot."""
        return self._first("scores", BINARY_REPAIRED, BINARY_SCORES)

    @property
    def quantized_scores(self) -> Artifact:
        """Scores of the QDQ graph after quantize/repair, if any."""
        return self._first("scores", REPAIRED) or self.int8_scores

    @property
    def repairs(self) -> tuple[Artifact, ...]:
        """The repair reports: on this machine, and in the binary."""
        found = (self._first("findings", REPAIRED), self._first("repair", BINARY_REPAIRED))
        return tuple(report for report in found if report is not None)

    def _first(self, output: str, *steps: str) -> Artifact | None:
        return next((self.steps[step][output] for step in steps if step in self.steps), None)
