"""The artifacts of one recipe by name, independent of the step that made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bpudeploy.backends.base import SCORES_STEP
from bpudeploy.digest import Digest
from bpudeploy.stage import Artifact, Kind
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
QUANTIZED = "quantize"
INT8_SCORES = "quantize/scores"
REPAIRED = "quantize/repair"
GOLDEN = "quantize/golden"
LAYERS = "quantize/layers"
INTEGERS = "quantize/integers"
BINARY = "compile"
BINARY_SCORES = SCORES_STEP

_RELEASED: Mapping[str, Mapping[str, Kind]] = {
    EVALUATION: SAMPLES.gives,
    FLOAT_SCORES: REFERENCE.gives,
    GRAPH: RESTRUCTURE.gives,
    QUANTIZED: QUANTIZE.gives,
    INT8_SCORES: SCORE_QUANTIZED.gives,
    REPAIRED: REPAIR.gives,
    GOLDEN: TAKE_GOLDEN.gives,
    BINARY: {"binary": Kind.BINARY},
    BINARY_SCORES: {"scores": Kind.SCORES},
}
"""The outputs that measuring a release needs."""


@dataclass(frozen=True)
class _Output:
    """A property: one output of one step."""

    step: str
    output: str

    def __get__(self, products: Products, owner: type[Products] | None = None) -> Artifact:
        return products.steps[self.step][self.output]


@dataclass(frozen=True)
class Products:
    """The outputs of a recipe's steps: ``steps`` is step name to output name to artifact.

    Every property raises KeyError if its step has not run.
    """

    steps: Mapping[str, Mapping[str, Artifact]]

    model = _Output(MODEL, "model")
    preprocess = _Output(PREPROCESSING, "preprocess")
    evaluation = _Output(EVALUATION, "samples")
    calibration = _Output(CALIBRATION, "samples")
    head = _Output(HEAD, "head")
    """The head from ``fit-head``."""
    float_scores = _Output(FLOAT_SCORES, "scores")
    """Scores of the original network."""
    graph = _Output(GRAPH, "graph")
    """The exactly restructured float graph."""
    graph_scores = _Output(GRAPH, "scores")
    int8_scores = _Output(INT8_SCORES, "scores")
    """Scores of the QDQ graph before any repair."""
    layers = _Output(LAYERS, "findings")
    """Deviation of each layer of the QDQ graph from float."""
    integers = _Output(INTEGERS, "findings")
    """Deviation of integer arithmetic from the QDQ graph."""
    golden_images = _Output(GOLDEN, "images")
    golden_logits = _Output(GOLDEN, "logits")
    """Logits of the QDQ graph for the golden images."""
    binary = _Output(BINARY, "binary")
    compiler_findings = _Output(BINARY, "findings")
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
                    for (output, kind), digest in zip(outputs.items(), steps[step], strict=False)
                }
                for step, outputs in _RELEASED.items()
                if step in steps
            }
        )

    def approximated(self, step: str) -> tuple[Artifact, Artifact]:
        """Return the graph that a step ``approximate/...`` made, and its scores."""
        made = self.steps[step]
        return made["graph"], made["scores"]

    @property
    def prepared(self) -> Artifact:
        """The prepared graph, after repair if any."""
        return self.steps[self._final]["prepared"]

    @property
    def quantized(self) -> Artifact:
        """The QDQ graph that is compiled."""
        return self.steps[self._final]["quantized"]

    @property
    def binary_scores(self) -> Artifact | None:
        """Scores of the binary, simulated bit-exactly; None if the backend cannot."""
        return self.steps[BINARY_SCORES]["scores"] if BINARY_SCORES in self.steps else None

    @property
    def quantized_scores(self) -> Artifact:
        """Scores of ``quantized``."""
        return self.steps[REPAIRED]["scores"] if REPAIRED in self.steps else self.int8_scores

    @property
    def repair(self) -> Artifact | None:
        """The repair report; None if the recipe has no repair."""
        return self.steps[REPAIRED]["findings"] if REPAIRED in self.steps else None

    @property
    def _final(self) -> str:
        return REPAIRED if REPAIRED in self.steps else QUANTIZED
