"""compile/repair: if the binary misses ``check.max_drop``, taps are promoted to int16 by what the compiler says.

What a tap wins is measured in the integers that the binary computes, and what it costs is the compiler's own estimate
for the nodes that read it. So both are about the board, where quantize/repair has only the QDQ graph and counted
multiplications.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpudeploy.backends.base import FINDINGS, SIMULATOR, CompileInputs, SimulatingBackend, SimulationInputs
from bpudeploy.backends.samples import Normalisation, Samples, Scores
from bpudeploy.conformance.profile import Profile
from bpudeploy.digest import digest_file
from bpudeploy.events import Note, Progress
from bpudeploy.quantize import repair as loop
from bpudeploy.quantize.findings import PromotionCandidate, change_text
from bpudeploy.stage import Artifact, Kind, Stage, StepContext
from bpudeploy.stages.compile import CompileStageOptions
from bpudeploy.stages.quantize import score
from bpudeploy.stages.repair import RepairOptions, drop_of, summary, write_promoted
from bpudeploy.stages.sensitivity import RANKING_IMAGES, QuantizedNetwork

if TYPE_CHECKING:
    from bpudeploy.quantize.arrays import F32

STEP = "compile/repair"
_FILES = ("prepared.onnx", "quantized.onnx", "binary", SIMULATOR, FINDINGS, "scores.safetensors")
_COMPILED = {"binary": Kind.BINARY, "simulator": Kind.SIMULATOR, "findings": Kind.FINDINGS}
GIVES = {
    "prepared": Kind.GRAPH,
    "quantized": Kind.QUANTIZED,
    **_COMPILED,
    "scores": Kind.SCORES,
    "repair": Kind.FINDINGS,
}
_TAKES = (
    *(Kind.GRAPH, Kind.QUANTIZED, Kind.SAMPLES, Kind.PREPROCESS, Kind.SAMPLES, Kind.SCORES),
    *_COMPILED.values(),
    Kind.SCORES,
)
_FREE = 1e-6
"""A cost below this part of the latency counts as this, so that what costs nothing is ordered by what it wins."""
_IMAGES = 16
"""Calibration images on which a tap's win is measured."""
_TRIED = 24
"""The taps that are tried in the binary's integers: those whose int8 form changes the QDQ graph's outputs most. Each
takes a build of the integer model, seconds for a small network and a minute for a ViT-S."""


@dataclass(frozen=True)
class BinaryRepairOptions:
    """The backend's options, and the limits."""

    compile: CompileStageOptions
    repair: RepairOptions

    def canonical(self) -> Mapping[str, Any]:
        return {**self.compile.canonical(), "repair": self.repair.canonical()}


@dataclass
class _Binary:
    """The network and its compiler."""

    work: StepContext
    backend: SimulatingBackend
    options: CompileStageOptions
    network: QuantizedNetwork
    calibration: Artifact
    preprocess: Artifact

    def inputs(self, taps: Sequence[str], folder: Path) -> CompileInputs:
        """Write the network with ``taps`` in int16."""
        folder.mkdir()
        files = folder / "prepared.onnx", folder / "quantized.onnx"
        write_promoted(self.network, taps, *files)
        graph, quantized = (
            Artifact(kind, digest_file(file), file)
            for kind, file in zip((Kind.GRAPH, Kind.QUANTIZED), files, strict=True)
        )
        return CompileInputs(graph, quantized, self.calibration, self.preprocess, self.options.march.value)

    def logits(self, taps: Sequence[str], pixels: Any) -> F32:
        """Return what the integer model computes with ``taps`` in int16."""
        folder = self.work.dir / "trial"
        inputs = self.inputs(taps, folder)
        found = self.backend.integers(StepContext(folder, self.work.emit), inputs, pixels, self.options.options)
        shutil.rmtree(folder)
        return found.reshape(len(pixels), -1)

    def compiled(self, taps: Sequence[str], name: str) -> Path:
        """Compile with ``taps`` in int16, and return the folder with everything that this writes."""
        folder = self.work.dir / name
        inputs = self.inputs(taps, folder)
        binary = self.backend.compile(StepContext(folder, self.work.emit), inputs, self.options.options)
        binary.rename(folder / "binary")
        return folder

    def evaluate(self, taps: tuple[str, ...], images: Samples, truth: Scores) -> float:
        """Score the evaluation images with ``taps`` in int16, and return the loss in points."""
        drop = drop_of(truth, Scores(self.logits(taps, images.pixels), images.labels))
        _note(self.work, f"{len(taps)} taps in int16: {change_text(drop)} points in the binary")
        return drop

    def candidates(self, before: Profile) -> list[PromotionCandidate]:
        """Rank the taps by what each wins in the integers per microsecond that it costs."""
        few = self.network.calibration
        images = Samples(few.pixels[:_IMAGES], few.labels[:_IMAGES])
        ranked = [c for c in self.network.ranked(RANKING_IMAGES) if c.cost is not None]
        tried = sorted(ranked, key=lambda c: -c.error)[:_TRIED]
        if not tried:
            return []
        _note(self.work, f"compiling with {len(tried)} taps in int16, for what each costs")
        narrow = before.nodes()
        wide = self.backend.profile(self.compiled([c.tap for c in tried], "wide") / FINDINGS).nodes()
        truth = score(str(self.network.prepared), images, self.network.normalise, lambda done: None).logits
        left, found = _error(self.logits((), images.pixels), truth), []
        for done, tap in enumerate(tried):
            self.work.emit(Progress(STEP, done, len(tried), "taps tried in the binary's integers"))
            won = left - _error(self.logits((tap.tap,), images.pixels), truth)
            cost_us = sum(max(0.0, wide.get(name, 0.0) - narrow.get(name, 0.0)) for name in tap.products)
            _note(self.work, f"{tap.tap} in int16: error {left:.2e} becomes {left - won:.2e}, {cost_us:+.1f} us")
            if won > 0.0:
                found.append(tap.model_copy(update={"error": won, "cost": cost_us / before.total_us}))
        return sorted(found, key=lambda c: -c.error / max(c.cost or 0.0, _FREE))


def _error(logits: F32, truth: F32) -> float:
    """Return the mean squared difference of the outputs, relative to their variance."""
    return float(((logits - truth) ** 2).mean() / max(float(truth.var()), 1e-30))


def _note(work: StepContext, text: str) -> None:
    work.emit(Note(STEP, text))


def repair_in_binary(backend: SimulatingBackend, compile_options: CompileStageOptions) -> Stage[BinaryRepairOptions]:
    """Return the stage that satisfies ``max_drop`` in the binary with the fewest promotions, if it is exceeded."""

    def run(work: StepContext, options: BinaryRepairOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
        prepared, quantized, calibration, preprocess, evaluation, truth, *compiled, scores = inputs
        limits, images, original = options.repair, Samples.read(evaluation.path), Scores.read(truth.path)
        normalise, few = Normalisation.read(preprocess.path), Samples.read(calibration.path)
        network = QuantizedNetwork(
            prepared.path, quantized.path, few, normalise, limits.rules, limits.corrected, STEP, work.emit
        )
        made = _Binary(work, backend, options.compile, network, calibration, preprocess)
        before, cost = backend.profile(compiled[2].path), dict[str, float]()

        def candidates() -> list[PromotionCandidate]:
            found = made.candidates(before)
            cost.update({c.tap: c.cost or 0.0 for c in found})
            return found

        found = loop.repair(
            drop_of(original, Scores.read(scores.path)),
            limits.max_drop,
            limits.max_slowdown,
            len(images),
            candidates,
            lambda taps: made.evaluate(taps, images, original),
            lambda taps: 1.0 + sum(cost[tap] for tap in taps),
        ).model_copy(update={"latency_us": before.total_us})
        for text in summary(found):
            _note(work, text)
        folder, report = _written(made, found.promoted, inputs, images), found.write(work.dir / "repair.json")
        return *(folder / name for name in _FILES), report

    return Stage(
        f"repair with {backend.name}",
        backend.version,
        takes=_TAKES,
        gives=GIVES,
        run=run,
        fingerprint=backend.fingerprint(compile_options.options),
        look_up=lambda: backend.fingerprint(compile_options.options),
    )


def _written(made: _Binary, taps: tuple[str, ...], inputs: tuple[Artifact, ...], images: Samples) -> Path:
    """Return the folder with the files of ``GIVES``: those of ``inputs``, or compiled with ``taps`` and scored."""
    folder = made.work.dir / "chosen"
    prepared, quantized, *_, binary, simulator, findings, scores = inputs
    if not taps:
        folder.mkdir()
        for name, artifact in zip(_FILES, (prepared, quantized, binary, simulator, findings, scores), strict=True):
            shutil.copyfile(artifact.path, folder / name)
        return folder
    _note(made.work, f"compiling with {len(taps)} taps in int16")
    made.compiled(taps, folder.name)
    simulator, binary = (
        Artifact(kind, digest_file(folder / name), folder / name)
        for kind, name in ((Kind.SIMULATOR, SIMULATOR), (Kind.BINARY, "binary"))
    )
    work = made.work.dir / "scoring"
    work.mkdir()
    given = SimulationInputs(simulator, binary, images.pixels)
    logits = made.backend.simulate(StepContext(work, made.work.emit), given, made.options.options)
    Scores(logits.reshape(len(images), -1), images.labels).write(folder / "scores.safetensors")
    return folder
