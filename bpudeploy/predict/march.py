"""Latency models of the marches: one file each in ``marches/``, written by ``benchmarks.fit_latency``."""

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
from bpudeploy.spec.target import March, Target
from bpudeploy.spec.validate import validate
from bpudeploy.spec.yamlmarks import load_yaml


class Term(StrEnum):
    """A kind of work, with its unit; a network's latency is the sum of amount times rate over all terms."""

    COMPUTE = "compute"  # GMAC, channels rounded up to the MAC array
    WEIGHTS = "weights"  # MB of weights read from DDR, once per frame
    ELEMENTWISE = "elementwise"  # MB of activations read and written by nodes without multiply-accumulates
    LAYOUT = "layout"  # MB of activations moved unchanged
    ATTENTION = "attention"  # MB of activations read and written by MatMul of two feature maps and by softmax
    INSTRUCTIONS = "instructions"  # nodes that the BPU runs
    CPU_BYTES = "cpu_bytes"  # MB of activations read and written on the CPU
    CPU_MACS = "cpu_macs"  # GMAC on the CPU
    HANDOVER = "handover"  # tensors that move between BPU and CPU
    OUTPUT = "output"  # millions of numbers returned to the application


TermTimes = dict[Annotated[Term, Field(strict=False)], float]


class MacArray(Frozen):
    """The size of the multiplier array in input and output channels."""

    channels_in: Annotated[int, Field(ge=1)]
    channels_out: Annotated[int, Field(ge=1)]


class FamilyError(Frozen):
    """Prediction errors of a held-out family of models: |predicted / published - 1|."""

    family: str
    rows: int
    median: float
    p90: float
    covered: int
    """How many prediction intervals contain the published latency."""


class MarchModel(Frozen):
    """The rates of one march and their uncertainty."""

    march: Annotated[March, Field(strict=False)]
    board: str
    array: MacArray
    rates: TermTimes
    """Milliseconds per unit of each term."""
    spread: TermTimes
    """Relative standard error of each rate; 1 if no published latency depends on it."""
    residual: Annotated[float, Field(ge=0)]
    """Robust standard deviation of log(published / predicted) over held-out predictions."""
    families: Annotated[tuple[FamilyError, ...], Field(strict=False)]
    """By family; empty if no latency of this march is published."""
    basis: str
    """The basis of the rates; shown with every prediction."""
    sources: dict[str, str]


def model_of(target: Target) -> MarchModel | None:
    """Return the latency model that a target names, or the package's own for its march; None if there is none.

    Raises:
        SpecError: the file that the target names is invalid.
    """
    if target.latency_model is not None:
        return read_model(Path(target.latency_model))
    return march_model(target.march) if target.march in modelled_marches() else None


@cache
def march_model(march: March) -> MarchModel:
    """Return the model of a BPU march.

    Raises:
        KeyError: the march has no model.
    """
    with resources.as_file(_files()[march]) as path:
        return read_model(path)


def read_model(path: Path) -> MarchModel:
    """Read a file of ``marches/``.

    Raises:
        SpecError: the file is invalid.
    """
    return validate(MarchModel, load_yaml(path))


def modelled_marches() -> tuple[March, ...]:
    """Return the marches that have a model."""
    return tuple(_files())


@cache
def digest_of_models() -> str:
    """Return a digest of all models, for cache keys."""
    files = sorted(_files().values(), key=lambda file: file.name)
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _files() -> dict[March, Traversable]:
    folder = resources.files("bpudeploy.predict").joinpath("marches")
    return {march: file for march in March if (file := folder.joinpath(f"{march}.yaml")).is_file()}
