"""quantize/repair: int16 where the promised accuracy needs it, and nowhere else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bpudeploy.backends.samples import Normalisation, Samples, Scores
from bpudeploy.events import Note, Progress
from bpudeploy.quantize import repair as loop
from bpudeploy.quantize.findings import PromotionCandidate, RepairOutcome, RepairReport
from bpudeploy.quantize.record import QuantizeRecord
from bpudeploy.stage import Artifact, Kind, Stage, Work
from bpudeploy.stages.quantize import QUANTIZE, score
from bpudeploy.stages.sensitivity import RANKED_ON, Choice, Network

_STEP = "quantize/repair"
_NAMED = 6


@dataclass(frozen=True)
class RepairOptions:
    """``max_drop`` in points of top-1 against float; ``max_slowdown``: predicted time over that without repair."""

    max_drop: float
    max_slowdown: float | None
    choice: Choice

    def canonical(self) -> Mapping[str, Any]:
        return {
            "max_drop": self.max_drop,
            "max_slowdown": self.max_slowdown,
            "rules": self.choice.rules.model_dump(mode="json", exclude={"rounding"}),
            "corrected": self.choice.corrected,
        }


def repair(work: Work, options: RepairOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Keep ``max_drop`` on the evaluation images with the fewest promotions to int16; what keeps it passes as it is.

    Gives the prepared float graph, the QDQ graph, its scores, and what was tried.
    """
    prepared, quantized, calibration, preprocess, evaluation, truth, scores = inputs
    normalise = Normalisation.read(preprocess.path)
    images = Samples.read(calibration.path)
    network = Network(prepared.path, quantized.path, images, normalise, options.choice, _STEP, work.emit)
    trials = _Trials(work, network, Samples.read(evaluation.path), normalise, Scores.read(truth.path))
    before = trials.drop(Scores.read(scores.path))
    if before > options.max_drop:
        said = f"{before:+.2f} points on {len(trials.evaluation)} images"
        work.emit(Note(_STEP, f"max_drop {options.max_drop:g} points is broken: {said}"))
    found = loop.repair(
        before,
        options.max_drop,
        options.max_slowdown,
        len(trials.evaluation),
        lambda: _candidates(network),
        trials.evaluate,
        network.slowdown,
    )
    for text in _told(found):
        work.emit(Note(_STEP, text))
    files = work.dir / "prepared.onnx", work.dir / "quantized.onnx", work.dir / "scores.safetensors"
    if found.promoted:
        _write(network, found.promoted, files[0], files[1])
        trials.made[found.promoted].write(files[2])
    else:
        for source, copy in zip((prepared, quantized, scores), files, strict=True):
            shutil.copyfile(source.path, copy)
    return *files, found.write(work.dir / "repair.json")


def _candidates(network: Network) -> tuple[PromotionCandidate, ...]:
    if not network.can_be_int16:
        return ()
    return tuple(candidate for candidate in network.ranked(RANKED_ON) if candidate.cost is not None)


@dataclass
class _Trials:
    """The network with taps in int16, scored on the evaluation images; ``made`` keeps the scores."""

    work: Work
    network: Network
    evaluation: Samples
    normalise: Normalisation
    truth: Scores
    made: dict[tuple[str, ...], Scores] = field(default_factory=dict)

    def drop(self, scores: Scores) -> float:
        """Return the loss against float in points of top-1, as the gate counts it."""
        before, after = (int((s.logits.argmax(axis=1) == s.labels).sum()) for s in (self.truth, scores))
        return 100 * (before - after) / len(scores.labels)

    def evaluate(self, taps: tuple[str, ...]) -> float:
        """Score the network with ``taps`` in int16; return its drop."""
        from bpudeploy.quantize.promote import promote

        count = len(self.evaluation)
        model = promote(self.network.quantized, taps, self.network.bias_corrections).SerializeToString()
        self.made[taps] = score(
            model,
            self.evaluation,
            self.normalise,
            lambda done: self.work.emit(Progress(_STEP, done, count, "images")),
        )
        drop = self.drop(self.made[taps])
        said = f"{drop:+.2f} points, predicted slowdown {self.network.slowdown(taps):.3f}"
        self.work.emit(Note(_STEP, f"{_counted(len(taps))} in int16: {said}"))
        return drop


def _write(network: Network, taps: tuple[str, ...], prepared: Path, qdq: Path) -> None:
    """Write both graphs with ``taps`` in int16."""
    import onnx

    from bpudeploy.quantize.promote import promote, without_corrections

    quantized = promote(network.quantized, taps, network.bias_corrections)
    record = QuantizeRecord.read(quantized)
    lever = f"{_counted(len(taps))} promoted to int16 by repair"
    record.model_copy(update={"levers": (*record.levers, lever)}).write(quantized)
    onnx.save(without_corrections(network.graph, network.record, taps, network.bias_corrections), prepared)
    onnx.save(quantized, qdq)


def _told(found: RepairReport) -> Iterator[str]:
    """Say in lines how repair went."""
    gate = f"max_drop {found.max_drop:g} points on {found.images} images"
    if found.outcome is RepairOutcome.NOT_NEEDED:
        yield f"{gate}: holds as it is, {found.drop:+.2f}"
        return
    if found.outcome is RepairOutcome.NOT_POSSIBLE:
        yield f"{gate}: BROKEN, {found.drop:+.2f}, and nothing can be promoted to int16"
        return
    done = "holds with" if found.holds else "BROKEN, the best that was reached is with"
    yield f"{gate}: {done} {_counted(len(found.promoted))} in int16, {found.drop:+.2f}"
    if found.promoted:
        more = len(found.promoted) - _NAMED
        yield f"in int16: {', '.join(found.promoted[:_NAMED])}{f' and {more} more' if more > 0 else ''}"


def _counted(taps: int) -> str:
    return f"{taps} tap{'s' * (taps != 1)}"


REPAIR = Stage(
    "repair",
    version=1,
    takes=(
        *(Kind.GRAPH, Kind.QUANTIZED, Kind.SAMPLES, Kind.PREPROCESS),
        *(Kind.SAMPLES, Kind.SCORES, Kind.SCORES),
    ),
    gives={
        **QUANTIZE.gives,
        "scores": Kind.SCORES,
        "findings": Kind.FINDINGS,
    },
    run=repair,
    tools=("onnx", "onnxruntime", "numpy"),
)
