"""Whether a run that stops before the board keeps ``check.max_drop``: what repair said of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bpudeploy.quantize.findings import RepairReport
    from bpudeploy.run.runner import RunResult


def repair_of(result: RunResult) -> RepairReport | None:
    """Return how repair ended, or None where it is not among the steps."""
    from bpudeploy.plan import pipeline
    from bpudeploy.quantize.findings import RepairReport

    ref = pipeline.repair_findings(result.steps)
    return RepairReport.read(result.artifact(ref.step, ref.index).path) if ref is not None else None
