"""The recipe's ``quantize:`` section: which observer, which levers, what is int16, and how far repair may go."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from bpudeploy.spec.frozen import Frozen


class Observer(StrEnum):
    """How an activation's clipping threshold is chosen from its histogram."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


class WeightScale(StrEnum):
    """How a weight's scale is chosen."""

    MAX = "max"
    MSE = "mse"


class WeightRounding(StrEnum):
    """How a weight becomes an integer."""

    NEAREST = "nearest"
    RECONSTRUCT = "reconstruct"  # later columns make up for the error of earlier ones, on calibration's inputs


class WeightSpec(Frozen):
    """Weights are int8, symmetric."""

    scale: Annotated[WeightScale, Field(strict=False)] = WeightScale.MSE
    per_channel: bool = True
    """One scale an output channel; else one for the whole tensor."""
    rounding: Annotated[WeightRounding, Field(strict=False)] = WeightRounding.RECONSTRUCT
    correct_bias: bool = True
    """Put the mean error of each output channel on calibration's inputs into the bias."""


class QuantizeSpec(Frozen):
    """Static INT8 and INT16 by the rules of the target's march; the defaults are what measured best."""

    observer: Annotated[Observer, Field(strict=False)] = Observer.MSE
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    """Read by the percentile observer only."""
    centre: bool = True
    """Take the mean from the values of each attention, and give it back in the bias of what reads them: free."""
    migrate: bool = True
    """Give each channel of a convolution's input a range of its own, the weights taking the factor."""
    split: bool = True
    """Where MatMul takes int8 only, and there is int16 elsewhere, multiply a softmax in two ranges: one product more,
    and small probabilities survive."""
    weights: WeightSpec = WeightSpec()
    int16: Annotated[tuple[str, ...], Field(strict=False)] = ("op:Softmax", "last")
    """Tensors that go into a Conv or MatMul in int16 where the march has it: patterns (``*``) of their names, of the
    nodes that read them, ``op:NAME`` of the operator that makes them, or ``last``: what the last layer reads."""
    repair: bool = True
    """Where ``check.max_drop`` is broken on this machine, hold the fewest further tensors in int16 that keep it."""
    max_slowdown: Annotated[float, Field(ge=1)] | None = None
    """How many times as long the network may take for that, as predicted from counts; no limit when left out."""
