"""The target: a kind of board. It has no address and no credentials."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.precision import PrecisionRules


class March(StrEnum):
    """A BPU architecture, or the board's CPU."""

    CPU = "cpu"
    BERNOULLI2 = "bernoulli2"
    BAYES = "bayes"
    BAYES_E = "bayes-e"
    NASH_E = "nash-e"
    NASH_M = "nash-m"
    NASH_P = "nash-p"


class Connection(StrEnum):
    """How a board of this kind is reached."""

    EMBEDDED = "embedded"  # an SSH server that the run starts on loopback
    SSH = "ssh"  # --board USER@HOST[:PORT]


class BoardSpec(Frozen):
    """Where things live on a board of this kind."""

    connection: Annotated[Connection, Field(strict=False)] = Connection.SSH
    root: str = "/userdata/bpudeploy"
    """Where releases are installed; relative to the login directory unless it starts with a slash."""
    python: str = "python3"
    """The board's Python; ignored by the embedded board, which uses the one that runs bpudeploy."""
    signed: bool = True
    """Releases are signed, and the board verifies that before it activates one. False: it verifies digests only."""
    keep: Annotated[int, Field(ge=1)] = 3
    """Releases that stay on the board, the newest; the current and the previous one stay in any case."""


class Target(Frozen):
    """What a recipe is built for."""

    name: str
    description: str
    march: Annotated[March, Field(strict=False)]
    backend: str
    """The name of a compile backend (``bpudeploy backends``)."""
    board: BoardSpec = BoardSpec()
    precision: PrecisionRules = PrecisionRules()
    """The number formats of this march, and how it rounds."""
    allowed: dict[str, list[str | int] | Literal["any"]] = Field(default_factory=dict)
    """Option of the backend to the values that this march has, or any; an option not named here does not exist."""
    sources: dict[str, str] = Field(default_factory=dict)
    """Fact to where it was read."""
