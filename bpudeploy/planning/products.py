"""The artifacts of one recipe by name, independent of the step that made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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

_RELEASED: Mapping[str, Mapping[str, Kind]] = {
    EVALUATION: SAMPLES.gives,
    FLOAT_SCORES: REFERENCE.gives,
    GRAPH: RESTRUCTURE.gives,
    QUANTIZED: QUANTIZE.gives,
    INT8_SCORES: SCORE_QUANTIZED.gives,
    REPAIRED: REPAIR.gives,
    GOLDEN: TAKE_GOLDEN.gives,
    BINARY: {"binary": Kind.BINARY},
}
"""The outputs that measuring a release needs."""


@dataclass(frozen=True)
class Products:
    """The outputs of a recipe's steps: ``steps`` is step name to output name to artifact.

    Every property raises KeyError if its step has not run.
    """

    steps: Mapping[str, Mapping[str, Artifact]]

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

    @property
    def model(self) -> Artifact:
        return self.steps[MODEL]["model"]

    @property
    def preprocess(self) -> Artifact:
        return self.steps[PREPROCESSING]["preprocess"]

    @property
    def evaluation(self) -> Artifact:
        return self.steps[EVALUATION]["samples"]

    @property
    def calibration(self) -> Artifact:
        return self.steps[CALIBRATION]["samples"]

    @property
    def head(self) -> Artifact:
        """The head from ``fit-head``."""
        return self.steps[HEAD]["head"]

    @property
    def float_scores(self) -> Artifact:
        """Scores of the original network."""
        return self.steps[FLOAT_SCORES]["scores"]

    @property
    def graph(self) -> Artifact:
        """The exactly restructured float graph."""
        return self.steps[GRAPH]["graph"]

    @property
    def graph_scores(self) -> Artifact:
        return self.steps[GRAPH]["scores"]

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
    def int8_scores(self) -> Artifact:
        """Scores of the QDQ graph before any repair."""
        return self.steps[INT8_SCORES]["scores"]

    @property
    def quantized_scores(self) -> Artifact:
        """Scores of ``quantized``."""
        return self.steps[REPAIRED]["scores"] if REPAIRED in self.steps else self.int8_scores

    @property
    def repair(self) -> Artifact | None:
        """The repair report; None if the recipe has no repair."""
        return self.steps[REPAIRED]["findings"] if REPAIRED in self.steps else None

    @property
    def layers(self) -> Artifact:
        """Deviation of each layer of the QDQ graph from float."""
        return self.steps[LAYERS]["findings"]

    @property
    def integers(self) -> Artifact:
        """Deviation of integer arithmetic from the QDQ graph."""
        return self.steps[INTEGERS]["findings"]

    @property
    def golden_images(self) -> Artifact:
        return self.steps[GOLDEN]["images"]

    @property
    def golden_logits(self) -> Artifact:
        """Logits of the QDQ graph for the golden images."""
        return self.steps[GOLDEN]["logits"]

    @property
    def binary(self) -> Artifact:
        return self.steps[BINARY]["binary"]

    @property
    def compiler_findings(self) -> Artifact:
        """Findings of a backend that reports them."""
        return self.steps[BINARY]["findings"]

    @property
    def _final(self) -> str:
        return REPAIRED if REPAIRED in self.steps else QUANTIZED
