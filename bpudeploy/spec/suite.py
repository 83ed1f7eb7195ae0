"""A suite file: the recipes that a night measures, on which boards, with which checks and time budget."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from bpudeploy.spec.fleet import Identifier
from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.recipe import Name

Percent = Annotated[float, Field(ge=0, le=1000)]


class NightlyChecks(Frozen):
    """Threshold of each metric: smaller changes are ignored; null disables the metric."""

    top1: Annotated[float, Field(ge=0, le=100)] | None = 0.5
    """Change of top-1 on the same images, in percentage points; 0.5 by default."""
    p50: Percent | None = 3.0
    """Change of p50 latency, in percent; 3 by default."""
    p99: Percent | None = 10.0
    """Change of p99 latency, in percent; 10 by default."""
    size: Percent | None = 1.0
    """Change of the binary's size, in percent; 1 by default."""
    memory: Percent | None = 10.0
    """Change of the measuring process's peak memory on the board, in percent; 10 by default."""
    compile_time: Percent | None = 50.0
    """Change of compile time, in percent, on nights that compile the binary (see ``recompile``); 50 by default."""


class QuarantineSpec(Frozen):
    """When a board is excluded because of its own faults, unrelated to the releases."""

    faults: Annotated[int, Field(ge=1)] = 3
    """Number of board faults within the last ``nights`` that excludes the board until they are older."""
    nights: Annotated[int, Field(ge=1)] = 5
    """Number of nights over which faults are counted."""
    boards: dict[Identifier, str] = Field(default_factory=dict)
    """Manually excluded boards, each with the reason."""


class JobSpec(Frozen):
    """One recipe, for one or several targets."""

    recipe: str
    """Path of the recipe, relative to this file."""
    targets: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Targets to build for, in a recipe with a matrix over targets a selection of them; the recipe's own by default."""
    set: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Changed recipe fields, such as ``calibration.count=32``."""
    pool: str | None = None
    """Selector of the boards that may run the job, such as ``group=nightly``; all boards of the target by default."""
    value: Annotated[float, Field(gt=0)] = 1.0
    """Priority: jobs of higher value run first, and jobs that do not fit into the night are skipped."""
    checks: NightlyChecks | None = None
    """Thresholds that replace those of the suite."""
    recompile: bool = False
    """Compile each night even if the binary is in the store, to measure compile time (default: false)."""


class Suite(Frozen):
    """A suite file."""

    name: Name
    """Name of the suite."""
    fleet: str | None = None
    """Path of the fleet file, relative to this file; without one, only targets with an embedded board can run."""
    jobs: Annotated[tuple[JobSpec, ...], Field(strict=False, min_length=1)]
    """Recipes to measure."""
    checks: NightlyChecks = NightlyChecks()
    """Threshold of each metric."""
    budget_minutes: Annotated[float, Field(gt=0)] | None = None
    """Time budget in minutes: a job starts only if it is expected to finish within it; running jobs are completed."""
    baselines: str = "baselines"
    """Folder of the pinned baselines, relative to this file; `bpudeploy baseline update` writes there."""
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    """Retries of a job after a board or network fault, on another board if possible."""
    wait_minutes: Annotated[float, Field(ge=0)] = 30.0
    """Longest wait for a reserved board if no other is free, in minutes."""
    quarantine: QuarantineSpec = QuarantineSpec()
    """When a board is excluded because of its own faults."""
