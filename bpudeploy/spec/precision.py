"""In which number formats a march computes, and how it rounds: the rules that quantization keeps, as data."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from bpudeploy.spec.frozen import Frozen


class Precision(StrEnum):
    """How a tensor is held. Integers are symmetric: scale = threshold / levels, no zero point."""

    INT8 = "int8"
    INT16 = "int16"
    FLOAT32 = "float32"

    @property
    def levels(self) -> int:
        """The largest integer: 127 or 32767 (the smallest is its negative).

        Raises:
            ValueError: float32 has none.
        """
        if self is Precision.FLOAT32:
            raise ValueError("float32 is not rounded to levels")
        return 127 if self is Precision.INT8 else 32767


class Rounding(StrEnum):
    """Where a half goes when a sum is brought back to int8 or int16."""

    HALF_EVEN = "half_even"
    HALF_AWAY = "half_away"


class Int16Cost(Frozen):
    """How many times longer an operation takes in int16 than in int8: for choosing, never shown as measured."""

    products: Annotated[float, Field(ge=1)] = 2.0
    """Conv and MatMul."""
    elementwise: Annotated[float, Field(ge=1)] = 2.0


Held = Annotated[tuple[Annotated[Precision, Field(strict=False)], ...], Field(strict=False, min_length=1)]


class PrecisionRules(Frozen):
    """What a march offers. Weights are int8, symmetric, one scale an output channel, on all of them."""

    conv: Held = (Precision.INT8, Precision.INT16)
    """What may go into a Conv."""
    matmul: Held = (Precision.INT8, Precision.INT16)
    """What may go into a MatMul."""
    elsewhere: Annotated[Precision, Field(strict=False)] = Precision.FLOAT32
    """How every other tensor of the accelerator is held; float32 where all else is computed in float."""
    rounding: Annotated[Rounding, Field(strict=False)] = Rounding.HALF_EVEN
    folds_factors: bool = False
    """The compiler moves a constant factor before a convolution into its weights: a scale that was migrated into such a
    factor is undone, and one at the end of a GELU breaks its fusion to one look-up."""
    int16_cost: Int16Cost = Int16Cost()

    def allowed(self, op: str) -> tuple[Precision, ...]:
        """Return what may go into a product, "Conv" or "MatMul"."""
        return self.conv if op == "Conv" else self.matmul
