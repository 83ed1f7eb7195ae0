"""compile and compile/scores: runs a backend as a stage, and what its binary computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bpudeploy.backends.base import (
    FINDINGS,
    SCORES_STEP,
    SIMULATOR,
    Backend,
    CompileInputs,
    SimulatingBackend,
    SimulationInputs,
)
from bpudeploy.backends.samples import Samples, Scores
from bpudeploy.events import Note
from bpudeploy.spec.load import LoadedRecipe
from bpudeploy.spec.target import March
from bpudeploy.spec.validate import validate
from bpudeploy.stage import Artifact, Kind, Stage, StepContext


@dataclass(frozen=True)
class CompileStageOptions:
    """The backend's options and the march."""

    march: March
    options: BaseModel

    @classmethod
    def of(cls, resolved: LoadedRecipe, backend: Backend) -> CompileStageOptions:
        """Return the recipe's section of this backend, validated by the backend's model.

        Raises:
            SpecError: the section of a third-party backend is invalid; others were validated with the recipe.
        """
        section = getattr(resolved.recipe.compile, backend.name, None)
        if isinstance(section, dict):
            at = ("compile", backend.name)
            node = resolved.root.get(at)
            assert node is not None
            section = validate(backend.options_type, node, at)
        return cls(resolved.target.march, section or backend.options_type())

    def canonical(self) -> Mapping[str, Any]:
        return {"march": self.march.value, **self.options.model_dump(mode="json", exclude_none=True)}


def compile_with(backend: Backend, chosen: CompileStageOptions) -> Stage[CompileStageOptions]:
    """Return the stage that runs ``backend``; the backend's name, version and tools are part of the cache key.

    Raises:
        ToolMissing: the compiler is not on this machine.
    """

    gives = {"binary": Kind.BINARY}
    if simulates(backend, chosen):
        gives["simulator"] = Kind.SIMULATOR
    if backend.findings:
        gives["findings"] = Kind.FINDINGS

    def run(work: StepContext, options: CompileStageOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
        graph, quantized, calibration, preprocess = inputs
        given = CompileInputs(graph, quantized, calibration, preprocess, options.march.value)
        binary = backend.compile(work, given, options.options)
        made = {Kind.BINARY: binary, Kind.SIMULATOR: work.dir / SIMULATOR, Kind.FINDINGS: work.dir / FINDINGS}
        return tuple(made[kind] for kind in gives.values())

    return Stage(
        f"compile with {backend.name}",
        backend.version,
        takes=(Kind.GRAPH, Kind.QUANTIZED, Kind.SAMPLES, Kind.PREPROCESS),
        gives=gives,
        run=run,
        fingerprint=backend.fingerprint(chosen.options),
        look_up=lambda: backend.fingerprint(chosen.options),
    )


def simulates(backend: Backend, chosen: CompileStageOptions) -> bool:
    """Return whether the backend can run its binary on this machine.

    Raises:
        ToolMissing: the compiler is not on this machine.
    """
    return isinstance(backend, SimulatingBackend) and backend.simulates(chosen.options)


def score_with(backend: Backend, chosen: CompileStageOptions) -> Stage[CompileStageOptions]:
    """Return the stage that scores the evaluation set with the binary, simulated bit-exactly."""

    def run(work: StepContext, options: CompileStageOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
        binary, simulator, samples = inputs
        images = Samples.read(samples.path)
        assert isinstance(backend, SimulatingBackend)  # checked by the pipeline
        logits = backend.simulate(work, SimulationInputs(simulator, binary, images.pixels), options.options)
        scores = Scores(logits, images.labels)
        work.emit(
            Note(SCORES_STEP, f"top-1 in the binary {100 * scores.top1:.2f} % of {len(images)} images, simulated")
        )
        return (scores.write(work.dir / "scores.safetensors"),)

    return Stage(
        f"scores of {backend.name}",
        backend.version,
        takes=(Kind.BINARY, Kind.SIMULATOR, Kind.SAMPLES),
        gives={"scores": Kind.SCORES},
        run=run,
        fingerprint=backend.fingerprint(chosen.options),
        look_up=lambda: backend.fingerprint(chosen.options),
    )
