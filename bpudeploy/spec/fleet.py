"""The fleet: which boards there are, and how a release reaches them. No secret has a place in it."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

from pydantic import Field, PlainValidator, WithJsonSchema

from bpudeploy.spec.frozen import Frozen

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""A name of a board, a group, a label or its value."""
_PERCENT = r"^(100|[1-9][0-9]?)%$"


def _share(value: object) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if isinstance(value, str) and re.match(_PERCENT, value):
        return value
    raise ValueError("expected a number of boards from 1, or a percentage such as 10%")


Share = Annotated[
    int | str,
    PlainValidator(_share),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": _PERCENT}]}),
]
"""A number of boards, or a percentage of them, rounded up."""


class FleetBoard(Frozen):
    """One board."""

    address: str
    """[USER@]HOST[:PORT]; HOST may be an alias of ~/.ssh/config."""
    target: str
    """The kind of board: what is built for it, and where it is installed."""
    groups: Annotated[tuple[Word, ...], Field(strict=False)] = ()
    labels: dict[Word, Word] = Field(default_factory=dict)
    jump: str | None = None
    """A jump host, [USER@]HOST[:PORT], where ~/.ssh/config names none."""
    root: str | None = None
    """Where releases are installed there, where that is not the target's folder."""
    board_id: str | None = None
    """The SoC's serial number: another board at this address is refused."""


class Wave(Frozen):
    """Boards that are updated together, before any of the next wave is touched. One of the three says which."""

    select: str | None = None
    """A selector, such as ``group=canary,chip=bayes-e``, among those that no earlier wave has."""
    count: Annotated[int, Field(ge=1)] | None = None
    percent: Annotated[float, Field(gt=0, le=100)] | None = None
    """Of all boards of the rollout, rounded up, from those that no earlier wave has."""
    approve: bool = False
    """It waits for ``bpudeploy fleet approve`` before it begins."""
    soak_seconds: Annotated[float, Field(ge=0, le=7 * 86400)] | None = None
    """How long the wave is left alone after its last board, before the next begins; the policy's when left out."""


class OnFailure(StrEnum):
    """What becomes of boards that were updated when a rollout stops for failures."""

    ROLLBACK_WAVE = "rollback_wave"
    """Those of the wave that failed go back to their release before."""
    ROLLBACK_ALL = "rollback_all"
    """All that this rollout updated go back."""
    STOP = "stop"
    """They stay as they are."""


class Reserved(StrEnum):
    """What becomes of a board that somebody has reserved."""

    SKIP = "skip"
    WAIT = "wait"
    """Its wave waits until the reservation ends, ``reserved_seconds`` at most."""


class GatesSpec(Frozen):
    """What a board must show after it was updated; one that does not goes back, and counts as failed."""

    self_check: bool = True
    """The golden images are answered as on the host."""
    max_drop: Annotated[float, Field(ge=0, le=100)] | None = None
    """Allowed top-1 loss on the board against float, in percentage points; it runs the evaluation set there."""
    max_p99_slower: Annotated[float, Field(ge=0)] | None = None
    """Percent by which the p99 latency may be above that of the board's own release before, measured in turns."""
    max_temperature: Annotated[float, Field(gt=0, le=120)] | None = None
    """Degrees Celsius of the hottest sensor, after the update."""


class RolloutSpec(Frozen):
    """How a release reaches a fleet."""

    waves: Annotated[tuple[Wave, ...], Field(strict=False)] = ()
    """What no wave takes is the last one."""
    max_unavailable: Share = "10%"
    """Boards that may be out of service at once: being updated, failed, or lost while they were updated."""
    max_failures: Annotated[int, Field(ge=0)] = 0
    """Boards that may fail; with one more the rollout stops."""
    soak_seconds: Annotated[float, Field(ge=0, le=7 * 86400)] = 0.0
    board_seconds: Annotated[float, Field(gt=0, le=86400)] = 900.0
    """A board that takes longer counts as failed, and no longer holds up the others."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 2
    """Tries to reach a board, before it is called unreachable."""
    gates: GatesSpec = GatesSpec()
    on_failure: Annotated[OnFailure, Field(strict=False)] = OnFailure.ROLLBACK_WAVE
    reserved: Annotated[Reserved, Field(strict=False)] = Reserved.SKIP
    reserved_seconds: Annotated[float, Field(ge=0, le=7 * 86400)] = 3600.0
    windows: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """When boards may be touched, such as ``mon-fri 20:00-06:00 Europe/Berlin`` (UTC when no zone is named); none:
    always."""


class Fleet(Frozen):
    """A fleet file."""

    boards: dict[Word, FleetBoard]
    rollout: RolloutSpec = RolloutSpec()
