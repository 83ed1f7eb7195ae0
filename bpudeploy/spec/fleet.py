"""A fleet file: its boards, and how a release is rolled out to them. It contains no secrets."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

from pydantic import Field, PlainValidator, WithJsonSchema

from bpudeploy.spec.frozen import Frozen

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""Name of a board, group or label, or the value of a label."""
_PERCENT = r"^(100|[1-9][0-9]?)%$"


def _share(value: object) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if isinstance(value, str) and re.match(_PERCENT, value):
        return value
    raise ValueError("expected a number of boards (1 or more) or a percentage such as 10%")


Share = Annotated[
    int | str,
    PlainValidator(_share),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": _PERCENT}]}),
]
"""A number of boards, or a percentage (rounded up)."""


class FleetBoard(Frozen):
    """One board."""

    address: str
    """[USER@]HOST[:PORT]; HOST may be an alias from ~/.ssh/config."""
    target: str
    """Target of this board: what is built for it, and where it is installed."""
    groups: Annotated[tuple[Identifier, ...], Field(strict=False)] = ()
    """Groups of the board, for selectors such as ``group=canary``."""
    labels: dict[Identifier, Identifier] = Field(default_factory=dict)
    """Labels of the board, for selectors such as ``chip=bayes-e``."""
    jump: str | None = None
    """Jump host, [USER@]HOST[:PORT], unless ~/.ssh/config names one."""
    root: str | None = None
    """Folder on the board for releases; the target's by default."""
    board_id: str | None = None
    """Serial number of the SoC; a board with another one is refused at this address."""


class Wave(Frozen):
    """Boards that are updated together, before the next wave starts: one of ``select``, ``count`` and ``percent``."""

    select: str | None = None
    """Selector, such as ``group=canary,chip=bayes-e``, applied to the boards not in an earlier wave."""
    count: Annotated[int, Field(ge=1)] | None = None
    """Number of boards, from those not in an earlier wave."""
    percent: Annotated[float, Field(gt=0, le=100)] | None = None
    """Percent of all boards of the rollout (rounded up), from those not in an earlier wave."""
    approve: bool = False
    """Wait for ``bpudeploy fleet approve`` before the wave starts (default: false)."""
    soak_seconds: Annotated[float, Field(ge=0, le=7 * 86400)] | None = None
    """Seconds between the last board of the wave and the next wave; ``rollout.soak_seconds`` by default."""


class OnFailure(StrEnum):
    """What happens to updated boards if a rollout stops because of failures."""

    ROLLBACK_WAVE = "rollback_wave"
    """Roll back the boards of the failed wave."""
    ROLLBACK_ALL = "rollback_all"
    """Roll back all boards that this rollout updated."""
    STOP = "stop"
    """Leave them as they are."""


class Reserved(StrEnum):
    """What happens to a reserved board."""

    SKIP = "skip"
    WAIT = "wait"
    """The wave waits until the reservation ends, at most ``reserved_seconds``."""


class GatesSpec(Frozen):
    """Checks on a board after its update; a board that fails one is rolled back and counts as failed."""

    self_check: bool = True
    """Compare the outputs for the golden images with those of the host (default: true)."""
    max_drop: Annotated[float, Field(ge=0, le=100)] | None = None
    """Allowed top-1 loss against float, in percentage points; runs the evaluation set on the board."""
    max_p99_slower: Annotated[float, Field(ge=0)] | None = None
    """Allowed increase of p99 latency over the board's previous release, in percent; measured interleaved (A/B)."""
    max_temperature: Annotated[float, Field(gt=0, le=120)] | None = None
    """Allowed temperature of the hottest sensor after the update, in degrees Celsius."""


class RolloutSpec(Frozen):
    """How a release is rolled out to a fleet."""

    waves: Annotated[tuple[Wave, ...], Field(strict=False)] = ()
    """Waves in order; boards in no wave form the last one."""
    max_unavailable: Share = "10%"
    """Boards that may be out of service at once (number or percentage): in update, failed, or lost during it."""
    max_failures: Annotated[int, Field(ge=0)] = 0
    """Number of boards that may fail; the rollout stops at the next failure."""
    soak_seconds: Annotated[float, Field(ge=0, le=7 * 86400)] = 0.0
    """Seconds between the last board of a wave and the next wave; 0 by default."""
    board_seconds: Annotated[float, Field(gt=0, le=86400)] = 900.0
    """Time limit per board in seconds; a board that exceeds it counts as failed and no longer blocks the others."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 2
    """Connection attempts before a board counts as unreachable."""
    gates: GatesSpec = GatesSpec()
    """Checks on a board after its update."""
    on_failure: Annotated[OnFailure, Field(strict=False)] = OnFailure.ROLLBACK_WAVE
    """If a rollout stops: roll back the failed wave (default), roll back all updated boards, or keep the update."""
    reserved: Annotated[Reserved, Field(strict=False)] = Reserved.SKIP
    """Skip a reserved board (default), or wait for the end of its reservation."""
    reserved_seconds: Annotated[float, Field(ge=0, le=7 * 86400)] = 3600.0
    """Longest wait for a reserved board, in seconds."""
    windows: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """When boards may be updated, such as ``mon-fri 20:00-06:00 Europe/Berlin`` (UTC without a zone); always if
    empty."""


class Fleet(Frozen):
    """A fleet file."""

    boards: dict[Identifier, FleetBoard]
    """Boards by name."""
    rollout: RolloutSpec = RolloutSpec()
    """How a release is rolled out to these boards."""
