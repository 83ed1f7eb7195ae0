"""A target: a kind of board, without address or credentials."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.layout import LayoutFacts
from bpudeploy.spec.precision import PrecisionRules

_MARCH_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")


class March(StrEnum):
    """An accelerator's architecture by its vendor's name, or the board's CPU.

    The members are those that this package has data for. The set is open: a third-party backend has marches of its own.
    """

    CPU = "cpu"
    BERNOULLI2 = "bernoulli2"
    BAYES = "bayes"
    BAYES_E = "bayes-e"
    NASH_E = "nash-e"
    NASH_M = "nash-m"
    NASH_P = "nash-p"

    @classmethod
    def _missing_(cls, value: object) -> March | None:
        if not isinstance(value, str) or _MARCH_NAME.fullmatch(value) is None:
            return None
        march = str.__new__(cls, value)
        march._name_ = march._value_ = value
        return march

    @property
    def is_known(self) -> bool:
        """Whether this package has data for it: operator tables, or that a CPU needs none."""
        return self.name in March.__members__ or self.value in tuple(March)


class Connection(StrEnum):
    """How a board of this kind is reached."""

    EMBEDDED = "embedded"  # an SSH server that the run starts on loopback
    SSH = "ssh"  # --board USER@HOST[:PORT]


class BoardSpec(Frozen):
    """How boards of this kind are reached, and where releases are installed on them."""

    connection: Annotated[Connection, Field(strict=False)] = Connection.SSH
    """SSH to a board (default), or an embedded SSH server on this machine."""
    root: str = "/userdata/bpudeploy"
    """Folder on the board for releases; relative to the login directory unless it starts with a slash."""
    python: str = "python3"
    """The board's Python; ignored by the embedded board, which uses the one that runs bpudeploy."""
    signed: bool = True
    """Sign releases, and verify the signature on the board before activation; if false, verify digests only."""
    keep: Annotated[int, Field(ge=1)] = 3
    """Number of newest releases to keep on the board; the current and the previous one are always kept."""


class Target(Frozen):
    """What a recipe is built for."""

    name: str
    """Name of the target, equal to its file name without the ending."""
    description: str
    """One line for ``bpudeploy targets``."""
    march: Annotated[March, Field(strict=False)]
    """Architecture that the backend compiles for: a BPU's, cpu, or that of a third-party backend."""
    backend: str
    """Name of a compile backend (``bpudeploy backends``)."""
    board: BoardSpec = BoardSpec()
    """How boards of this kind are reached, and where releases are installed on them."""
    precision: PrecisionRules = PrecisionRules()
    """Number formats and rounding of this march."""
    layout: LayoutFacts = LayoutFacts()
    """How the accelerator lays tensors out; the graph is laid out for it."""
    latency_model: str | None = None
    """File with the latency model of this march, for ``bpudeploy estimate``; default: the package's own."""
    allowed: dict[str, list[str | int] | Literal["any"]] = Field(default_factory=dict)
    """Allowed values of each backend option on this march, or ``any``; options not listed do not exist."""
    sources: dict[str, str] = Field(default_factory=dict)
    """Source of each fact in this file."""
