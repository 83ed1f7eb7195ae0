"""The suite: which recipes a night measures, on which boards, held to what, in how much time."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from bpudeploy.spec.fleet import Word
from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.recipe import Name

Percent = Annotated[float, Field(ge=0, le=1000)]


class NightlyChecks(Frozen):
    """For each metric, the change below which a difference is nobody's concern; null: it is not judged."""

    top1: Annotated[float, Field(ge=0, le=100)] | None = 0.5
    """Percentage points, on the same images."""
    p50: Percent | None = 3.0
    p99: Percent | None = 10.0
    size: Percent | None = 1.0
    """Of the binary."""
    memory: Percent | None = 10.0
    """The most that the measuring process held on the board."""
    compile_time: Percent | None = 50.0
    """Of nights on which the binary was compiled; ``recompile`` compiles each night."""


class QuarantineSpec(Frozen):
    """When a board is left out because its faults say nothing of the releases."""

    faults: Annotated[int, Field(ge=1)] = 3
    """Faults of its own within the last ``nights``; with so many it is left out until they are older than that."""
    nights: Annotated[int, Field(ge=1)] = 5
    boards: dict[Word, str] = Field(default_factory=dict)
    """Board to why a person left it out."""


class JobSpec(Frozen):
    """One recipe, for one target or several."""

    recipe: str
    """Its file, relative to the suite's."""
    targets: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """The recipe's own when left out; of a matrix over targets, those that are meant."""
    set: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Changed fields, such as ``calibration.count=32``."""
    pool: str | None = None
    """A selector of the fleet, such as ``group=nightly``: the boards that may run it; all of its target by default."""
    value: Annotated[float, Field(gt=0)] = 1.0
    """The most valuable are run first; what does not fit into the night is left out."""
    checks: NightlyChecks | None = None
    """In place of the suite's."""
    recompile: bool = False
    """Compile each night, though the binary is in the store: for a figure of the compile time."""


class Suite(Frozen):
    """A suite file."""

    name: Name
    fleet: str | None = None
    """The fleet's file, relative to this one; without it only targets that start a board of their own can be run."""
    jobs: Annotated[tuple[JobSpec, ...], Field(strict=False, min_length=1)]
    checks: NightlyChecks = NightlyChecks()
    budget_minutes: Annotated[float, Field(gt=0)] | None = None
    """No job begins that is not expected to end within so long; what is running then is brought to its end."""
    baselines: str = "baselines"
    """The folder of the pinned baselines, relative to this file; `bpudeploy baseline update` writes there."""
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    """Further tries of a job after faults of a board or its network, on another board where there is one."""
    wait_minutes: Annotated[float, Field(ge=0)] = 30.0
    """How long a job waits for a board that somebody has reserved, when no other is free."""
    quarantine: QuarantineSpec = QuarantineSpec()
