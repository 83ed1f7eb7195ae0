"""quantize/repair: promotes as few tensors to int16 as the required accuracy allows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpudeploy.backends.samples import Normalisation, Samples, Scores
from bpudeploy.events import Note, progress
from bpudeploy.quantize import repair as loop
from bpudeploy.quantize.findings import PromotionCandidate, RepairOutcome, RepairReport, change_text
from bpudeploy.quantize.record import QuantizeRecord
from bpudeploy.spec.precision import PrecisionRules
from bpudeploy.stage import Artifact, Kind, Stage, StepContext
from bpudeploy.stages.options import FieldOptions
from bpudeploy.stages.quantize import QUANTIZE, score
from bpudeploy.stages.sensitivity import RANKING_IMAGES, QuantizedNetwork

_STEP = "quantize/repair"
_LISTED = 6


@dataclass(frozen=True)
class RepairOptions(FieldOptions):
    """``max_drop``: percentage points of top-1 against float; ``max_slowdown``: factor of the predicted time.

    ``rules`` and ``corrected`` as in ``QuantizedNetwork``.
    """

    max_drop: float
    max_slowdown: float | None
    rules: PrecisionRules
    corrected: bool

    def canonical(self) -> Mapping[str, Any]:
        return {**super().canonical(), "rules": self.rules.model_dump(mode="json", exclude={"rounding"})}


def repair(work: StepContext, options: RepairOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Satisfy ``max_drop`` on the evaluation images with the fewest promotions to int16, if it is exceeded.

    Returns the prepared float graph, the QDQ graph, its scores, and the trials.
    """
    from bpudeploy.quantize.promote import promote
    from bpudeploy.quantize.sensitivity import can_be_int16

    prepared, quantized, calibration, preprocess, evaluation, truth, scores = inputs
    normalise = Normalisation.read(preprocess.path)
    images = Samples.read(calibration.path)
    rules, corrected = options.rules, options.corrected
    network = QuantizedNetwork(prepared.path, quantized.path, images, normalise, rules, corrected, _STEP, work.emit)
    tested, original = Samples.read(evaluation.path), Scores.read(truth.path)
    made: dict[tuple[str, ...], Scores] = {}

    def candidates() -> list[PromotionCandidate]:
        able = can_be_int16(network.quantized, rules)
        return [c for c in network.ranked(RANKING_IMAGES) if c.cost is not None] if able else []

    def evaluate(taps: tuple[str, ...]) -> float:
        """Score the network with ``taps`` in int16 and return its loss."""
        model = promote(network.quantized, taps, network.bias_corrections).SerializeToString()
        made[taps] = score(model, tested, normalise, progress(work.emit, _STEP, len(tested), "images"))
        drop = drop_of(original, made[taps])
        text = f"{change_text(drop)} points, predicted slowdown {network.slowdown(taps):.3f}"
        work.emit(Note(_STEP, f"{_taps(len(taps))} in int16: {text}"))
        return drop

    before = drop_of(original, Scores.read(scores.path))
    if before > options.max_drop:
        change = f"{change_text(before)} points on {len(tested)} images"
        work.emit(Note(_STEP, f"max_drop {options.max_drop:g} points: not met before repair, {change}"))
    found = loop.repair(
        before,
        options.max_drop,
        options.max_slowdown,
        len(tested),
        candidates,
        evaluate,
        network.slowdown,
    )
    for text in summary(found):
        work.emit(Note(_STEP, text))
    files = work.dir / "prepared.onnx", work.dir / "quantized.onnx", work.dir / "scores.safetensors"
    if found.promoted:
        write_promoted(network, found.promoted, files[0], files[1])
        made[found.promoted].write(files[2])
    else:
        for source, copy in zip((prepared, quantized, scores), files, strict=True):
            shutil.copyfile(source.path, copy)
    return *files, found.write(work.dir / "repair.json")


def drop_of(truth: Scores, scores: Scores) -> float:
    """Return the top-1 loss against float in percentage points, as in ``check.max_drop``."""
    before, after = (int((s.logits.argmax(axis=1) == s.labels).sum()) for s in (truth, scores))
    return 100 * (before - after) / len(scores.labels)


def write_promoted(network: QuantizedNetwork, taps: Sequence[str], prepared: Path, qdq: Path) -> None:
    """Write both graphs with ``taps`` in int16."""
    import onnx

    from bpudeploy.quantize.promote import promote, without_corrections

    quantized = promote(network.quantized, taps, network.bias_corrections)
    record = QuantizeRecord.read(quantized)
    techniques = [f"{_taps(len(taps))} promoted to int16 by repair"] if taps else []
    record.model_copy(update={"levers": (*record.levers, *techniques)}).write(quantized)
    onnx.save(without_corrections(network.graph, network.record, taps, network.bias_corrections), prepared)
    onnx.save(quantized, qdq)


def summary(found: RepairReport) -> Iterator[str]:
    """Yield the result of the repair as lines of text."""
    limit = f"max_drop {found.max_drop:g} points on {found.images} images"
    if found.outcome is RepairOutcome.NOT_NEEDED:
        yield f"{limit}: passed without repair, {change_text(found.drop)} points"
        return
    if found.outcome is RepairOutcome.NOT_POSSIBLE:
        yield f"{limit}: FAILED, {change_text(found.drop)} points, and no tensor can be promoted to int16"
        return
    result = "passed with" if found.holds else "FAILED, best result with"
    yield f"{limit}: {result} {_taps(len(found.promoted))} in int16, {change_text(found.drop)} points"
    if found.promoted:
        more = len(found.promoted) - _LISTED
        yield f"in int16: {', '.join(found.promoted[:_LISTED])}{f' and {more} more' if more > 0 else ''}"


def _taps(count: int) -> str:
    return f"{count} tap{'s' * (count != 1)}"


REPAIR = Stage(
    "repair",
    version=1,
    takes=(Kind.GRAPH, Kind.QUANTIZED, Kind.SAMPLES, Kind.PREPROCESS, Kind.SAMPLES, Kind.SCORES, Kind.SCORES),
    gives={**QUANTIZE.gives, "scores": Kind.SCORES, "findings": Kind.FINDINGS},
    run=repair,
    tools=("onnx", "onnxruntime", "numpy"),
)
