"""What is known of a march's speed: data in ``marches/``, one file each, as ``benchmarks.fit_latency`` wrote it."""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from hashlib import sha256
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.target import March
from bpudeploy.spec.validate import validate
from bpudeploy.spec.yamlmarks import load_yaml


class Term(StrEnum):
    """A kind of work; a network's latency is the sum over all of them of amount times rate."""

    COMPUTE = "compute"  # multiply-accumulates, channels rounded up to the array
    WEIGHTS = "weights"  # weights read from DDR, once a frame
    ELEMENTWISE = "elementwise"  # activations read and written by what has no multiply-accumulates
    LAYOUT = "layout"  # activations moved as they are
    ATTENTION = "attention"  # read and written by products of two feature maps and by softmax
    INSTRUCTIONS = "instructions"  # nodes that the BPU runs
    CPU_BYTES = "cpu_bytes"  # activations read and written by nodes on the board's CPU
    CPU_MACS = "cpu_macs"  # multiply-accumulates there
    HANDOVER = "handover"  # tensors that change the device
    OUTPUT = "output"  # numbers given back to the program

    @property
    def unit(self) -> str:
        """What the amount counts."""
        return _UNITS[self]


_UNITS = {
    Term.COMPUTE: "GMAC",
    Term.WEIGHTS: "MB",
    Term.ELEMENTWISE: "MB",
    Term.LAYOUT: "MB",
    Term.ATTENTION: "MB",
    Term.INSTRUCTIONS: "nodes",
    Term.CPU_BYTES: "MB",
    Term.CPU_MACS: "GMAC",
    Term.HANDOVER: "tensors",
    Term.OUTPUT: "M numbers",
}

TermTimes = dict[Annotated[Term, Field(strict=False)], float]


class Array(Frozen):
    """The multiplier array: how many input and output channels it takes at once."""

    channels_in: Annotated[int, Field(ge=1)]
    channels_out: Annotated[int, Field(ge=1)]


class FamilyError(Frozen):
    """How a family of models was predicted by a fit that never saw it. Errors are |predicted / published - 1|."""

    family: str
    rows: int
    median: float
    p90: float
    covered: int
    """How many of the intervals held the published figure."""


class MarchModel(Frozen):
    """The rates of one march, and how far they are to be trusted."""

    march: Annotated[March, Field(strict=False)]
    board: str
    array: Array
    rates: TermTimes
    """Milliseconds per unit of each term."""
    spread: TermTimes
    """Relative standard error of each rate: 1 where no published figure says anything of it."""
    residual: Annotated[float, Field(ge=0)]
    """Spread (standard deviation, robust) of log(published / predicted) over the rows, each predicted unseen."""
    families: Annotated[tuple[FamilyError, ...], Field(strict=False)]
    """By family; empty where no latency of this march is published."""
    basis: str
    """What the rates rest on, in a sentence that is shown with every prediction."""
    sources: dict[str, str]

    @property
    def rows(self) -> int:
        """How many published figures it was fitted to."""
        return sum(f.rows for f in self.families)


@cache
def march_model(march: March) -> MarchModel:
    """Return the model of a BPU march.

    Raises:
        KeyError: the march has none: it is a CPU, or nobody has written one.
    """
    if march not in modelled():
        raise KeyError(march)
    with resources.as_file(_files()[march]) as path:
        return read_model(path)


def read_model(path: Path) -> MarchModel:
    """Read one file of ``marches/``.

    Raises:
        SpecError: it is not one.
    """
    return validate(MarchModel, load_yaml(path))


def modelled() -> tuple[March, ...]:
    """Return the marches that have a model."""
    return tuple(_files())


@cache
def digest_of_models() -> str:
    """Return what stands for all of them in a key."""
    files = sorted(_files().values(), key=lambda file: file.name)
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _files() -> dict[March, Traversable]:
    folder = resources.files("bpudeploy.predict").joinpath("marches")
    return {march: file for march in March if (file := folder.joinpath(f"{march}.yaml")).is_file()}
