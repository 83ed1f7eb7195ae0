"""Number formats and rounding of each march: the rules that quantization follows, as data."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from bpudeploy.spec.frozen import Frozen


class Precision(StrEnum):
    """Number format of a tensor. Integers are symmetric: scale = threshold / levels, no zero point."""

    INT8 = "int8"
    INT16 = "int16"
    FLOAT32 = "float32"

    @property
    def levels(self) -> int:
        """The largest integer: 127 or 32767 (the smallest is its negative).

        Raises:
            ValueError: for float32.
        """
        if self is Precision.FLOAT32:
            raise ValueError("float32 is not rounded to levels")
        return 127 if self is Precision.INT8 else 32767


class Rounding(StrEnum):
    """How ties are rounded when a sum is requantized to int8 or int16."""

    HALF_EVEN = "half_even"
    HALF_AWAY = "half_away"


class Int16Cost(Frozen):
    """Cost of an int16 operation relative to int8: used for decisions, never shown as measured."""

    products: Annotated[float, Field(ge=1)] = 2.0
    """Cost of an int16 Conv or MatMul relative to int8."""
    elementwise: Annotated[float, Field(ge=1)] = 2.0
    """Cost of an int16 elementwise operation relative to int8."""


Precisions = Annotated[tuple[Annotated[Precision, Field(strict=False)], ...], Field(strict=False, min_length=1)]


class PrecisionRules(Frozen):
    """What a march offers. Weights are always int8, symmetric, with one scale per output channel."""

    conv: Precisions = (Precision.INT8, Precision.INT16)
    """Formats allowed for the input of a Conv."""
    matmul: Precisions = (Precision.INT8, Precision.INT16)
    """Formats allowed for the inputs of a MatMul."""
    elsewhere: Annotated[Precision, Field(strict=False)] = Precision.FLOAT32
    """Format of all other tensors on the accelerator; float32 if everything else is computed in float."""
    rounding: Annotated[Rounding, Field(strict=False)] = Rounding.HALF_EVEN
    """How ties are rounded when a sum is requantized."""
    folds_factors: bool = False
    """Whether the compiler folds a constant factor for each channel into the next convolution's weights, which undoes a
    migrated scale; factors are then given once for each row. At the end of a GELU they prevent its fusion."""
    int8_only: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Operators for which the compiler rounds a tensor to int8, for all its readers, whatever was asked; of a
    Resize the result too. ONNX names, or ``strided depthwise Conv``."""
    int16_cost: Int16Cost = Int16Cost()
    """Cost of int16 relative to int8."""

    def allowed(self, op: str) -> tuple[Precision, ...]:
        """Return the input formats of a product, "Conv" or "MatMul"."""
        return self.conv if op == "Conv" else self.matmul
