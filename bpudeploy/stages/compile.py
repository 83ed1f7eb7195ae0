"""compile: runs a backend as a stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bpudeploy.backends.base import FINDINGS, Backend, CompileInputs
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

    def run(work: StepContext, options: CompileStageOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
        graph, quantized, calibration, preprocess = inputs
        given = CompileInputs(graph, quantized, calibration, preprocess, options.march.value)
        binary = backend.compile(work, given, options.options)
        return (binary, work.dir / FINDINGS) if backend.findings else (binary,)

    return Stage(
        f"compile with {backend.name}",
        backend.version,
        takes=(Kind.GRAPH, Kind.QUANTIZED, Kind.SAMPLES, Kind.PREPROCESS),
        gives={"binary": Kind.BINARY} | ({"findings": Kind.FINDINGS} if backend.findings else {}),
        run=run,
        fingerprint=backend.fingerprint(chosen.options),
        look_up=lambda: backend.fingerprint(chosen.options),
    )
