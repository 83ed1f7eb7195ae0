"""The recipe's ``quantize:`` section: observer, techniques, INT16 tensors and the limits of repair."""

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
    RECONSTRUCT = "reconstruct"  # later columns compensate for the error of earlier ones on the calibration inputs


class WeightSpec(Frozen):
    """Quantization of weights: INT8, symmetric."""

    scale: Annotated[WeightScale, Field(strict=False)] = WeightScale.MSE
    """How the scale is chosen: from the largest absolute value, or to minimise the squared error (default)."""
    per_channel: bool = True
    """Use one scale per output channel (default), otherwise one for the whole tensor."""
    rounding: Annotated[WeightRounding, Field(strict=False)] = WeightRounding.RECONSTRUCT
    """Round to nearest, or reconstruct the layer output on the calibration inputs (default)."""
    correct_bias: bool = True
    """Add the mean error of each output channel on the calibration inputs to the bias (default: true)."""


class QuantizeSpec(Frozen):
    """Static INT8/INT16 quantization by the rules of the target's march; the defaults measured best."""

    observer: Annotated[Observer, Field(strict=False)] = Observer.MSE
    """How activation thresholds are chosen from their histograms; mse by default."""
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    """Percent of the values that are not clipped; used by ``observer: percentile`` only."""
    centre: bool = True
    """Subtract the mean from the values of each attention and restore it in the bias of the layer that reads them; no
    extra cost. On marches whose compiler folds factors (X5, Ultra), also subtract the middle from the range of a GELU
    or SiLU before a 1x1 convolution."""
    migrate: bool = True
    """Equalise the input channels of each convolution by moving a factor per channel into its weights."""
    split: bool = True
    """On marches where MatMul takes INT8 only but other operators take INT16, multiply a softmax in two ranges: one
    extra product preserves small probabilities."""
    weights: WeightSpec = WeightSpec()
    """How weights are quantized."""
    int16: Annotated[tuple[str, ...], Field(strict=False)] = ("op:Softmax", "last", "small")
    """INT16 inputs of Conv and MatMul, if the march has INT16: patterns (``*``) of tensor names or of the nodes that
    read them, ``op:NAME`` of the operator that produces them, ``last`` for the input of the last layer, or ``small``
    for inputs of layers with at most 0.1 % of the multiplications each."""
    int16_budget: Annotated[float, Field(ge=0, le=100)] = 20.0
    """On BPUs with INT16: percent of the predicted time that it may cost. It is spent on the inputs whose INT8 form
    changes the outputs most, and only until what is left is small. 0 spends none."""
    repair: bool = True
    """If ``check.max_drop`` is exceeded on this machine, promote the fewest tensors to INT16 that satisfy it."""
    max_slowdown: Annotated[float, Field(ge=1)] | None = None
    """Limit of the predicted slowdown by repair, as a factor of the time without it; no limit by default."""
