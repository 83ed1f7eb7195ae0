"""Weights as integers: a scale for each output channel, rounding by the layer's inputs, and the bias after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpudeploy.spec.precision import Precision
from bpudeploy.spec.quantize import WeightRounding, WeightScale, WeightSpec

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]
    F64 = NDArray[np.float64]

_LEVELS = Precision.INT8.levels
_SHARES = 16
_DAMPING = 0.01
"""Added to the diagonal of the inputs' covariance, as a share of its mean (Frantar et al. 2023, section 3.3)."""
_BLOCK = 128


@dataclass(frozen=True, eq=False)
class Kernel:
    """A Conv's weights as matrices: ``rows`` float64 (groups, out / groups, n) with n = in / groups * kh * kw."""

    node: str
    rows: F64
    shape: tuple[int, ...]
    bias: F64 | None

    @classmethod
    def of(cls, node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> Kernel:
        """Read a Conv's weights and bias."""
        from onnx import numpy_helper

        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        weight = numpy_helper.to_array(constants[node.input[1]]).astype("float64")
        bias = numpy_helper.to_array(constants[node.input[2]]).astype("float64") if len(node.input) > 2 else None
        return cls(node.name, weight.reshape(groups, len(weight) // groups, -1), weight.shape, bias)

    def grouped(self, columns: F32) -> F32:
        """Return columns (C * kh * kw, k) as (groups, n, k)."""
        return columns.reshape(len(self.rows), self.rows.shape[2], -1)

    def spread(self, factors: F64) -> F64:
        """Return a factor for each input channel as one for each row element: (groups, 1, n)."""
        import numpy as np

        window = self.shape[2] * self.shape[3]
        return np.repeat(factors, window).reshape(len(self.rows), 1, -1)


@dataclass(frozen=True, eq=False)
class Rounded:
    """``integers`` int8, shaped as the weights; ``scales`` float64 (out,); ``bias`` float64 (out,) or None."""

    integers: NDArray[np.int8]
    scales: F64
    bias: F64 | None

    @property
    def weight(self) -> F64:
        """The weights that the integers stand for."""
        scaled: F64 = self.integers * self.scales.reshape(-1, *[1] * (self.integers.ndim - 1))
        return scaled


def on_grid(values: F32, steps: F32 | np.float32, top: float) -> F32:
    """Return ``values`` as multiples of ``steps`` (it broadcasts), at most ``top`` of them, in float32."""
    import numpy as np

    made: F32 = np.clip(np.rint(values / steps), -top, top) * steps
    return made


def weight_scales(rows: F64, spec: WeightSpec) -> F64:
    """Return the int8 scale of each row of (out, n); a row of zeros gets scale 1.

    ``mse``: of 0.5 to 1.0 of max |w| / 127, the one with the least squares. ``max``: max |w| / 127.
    """
    import numpy as np

    largest: F64 = np.abs(rows).max(axis=1) / _LEVELS
    if not spec.per_channel:
        largest[:] = largest.max()
    largest[largest == 0.0] = 1.0
    if spec.scale is WeightScale.MAX:
        return largest
    best, chosen, weights = np.full(len(rows), np.inf), largest.copy(), rows.astype(np.float32)
    for share in np.linspace(1.0, 0.5, _SHARES):
        scales = (largest * share)[:, None]
        missed = weights - on_grid(weights, scales.astype(np.float32), _LEVELS)
        error = np.einsum("ij,ij->i", missed, missed).astype(np.float64)
        error = error if spec.per_channel else np.full(len(rows), error.sum())
        better = error < best
        best[better], chosen[better] = error[better], scales[better, 0]
    return chosen


@dataclass(frozen=True, eq=False)
class Inputs:
    """A convolution's inputs as calibration saw them, float32 (groups, n, k): ``given``, and ``rounded`` as when run.

    ``order`` (groups, n) sorts a group's inputs, the strongest first; ``pull`` (groups, n, n) is lower triangular with
    A[i, j] / A[j, j] at (j, i), where A is upper triangular and A A' their damped covariance in that order.
    Convolutions that read the same share them.
    """

    given: F32
    rounded: F32
    order: NDArray[np.int64]
    pull: F32

    @classmethod
    def of(cls, columns: F32, groups: int, step: float, limit: float) -> Inputs:
        """Take columns (C * kh * kw, k), rounded by ``step`` and clipped at ``limit``."""
        import numpy as np

        given = columns.reshape(groups, len(columns) // groups, -1)
        rounded = on_grid(given, np.float32(step), round(limit / step))
        covariance = rounded @ rounded.transpose(0, 2, 1) / np.float32(rounded.shape[2])
        strength = np.einsum("gii->gi", covariance)
        order = np.argsort(-strength, axis=1, kind="stable")
        damping = _DAMPING * np.maximum(strength.mean(axis=1), np.float32(1e-30))
        sorted_ = covariance[np.arange(groups)[:, None, None], order[:, :, None], order[:, None, :]]
        sorted_ += damping[:, None, None] * np.eye(given.shape[1], dtype=np.float32)
        factor = np.linalg.cholesky(sorted_[:, ::-1, ::-1].astype(np.float64))[:, ::-1, ::-1]  # of it read backwards
        pull = (factor / np.einsum("gii->gi", factor)[:, None, :]).transpose(0, 2, 1)
        return cls(given, rounded, order, np.ascontiguousarray(pull, np.float32))


def round_weights(kernel: Kernel, inputs: Inputs | None, spec: WeightSpec) -> Rounded:
    """Return the integers of a Conv's weights; ``inputs`` is None where calibration saw none."""
    import numpy as np

    groups, out, n = kernel.rows.shape
    scales = weight_scales(kernel.rows.reshape(-1, n), spec)
    steps = scales.reshape(groups, out, 1)
    if inputs is not None and spec.rounding is WeightRounding.RECONSTRUCT:
        integers = _reconstruct(kernel.rows, inputs, steps)
    else:
        integers = np.clip(np.rint(kernel.rows / steps), -_LEVELS, _LEVELS)
    bias = kernel.bias
    if inputs is not None and spec.correct_bias:
        means = [part.mean(axis=2, dtype=np.float64)[:, :, None] for part in (inputs.given, inputs.rounded)]
        missing = (kernel.rows @ means[0] - (integers * steps) @ means[1]).reshape(-1)
        bias = missing if bias is None else bias + missing
    return Rounded(integers.reshape(kernel.shape).astype(np.int8), scales, bias)


def _reconstruct(rows: F64, inputs: Inputs, steps: F64) -> F64:
    """Round input by input and let each make up for the errors of those before it (GPTQ).

    With H = A A' the inputs' covariance, a row's squared error e' H e is the sum over j of
    (A[j, j] e[j] + sum of A[i, j] e[i] over i < j)^2: input by input, the integer nearest to what is left is taken.
    That is GPTQ (Frantar et al., ICLR 2023, algorithm 1) without the inverse of H: Babai's nearest plane (Chen et
    al. 2025, "The Geometry of LLM Quantization").

    Args:
        rows: (groups, out, n). steps: (groups, out, 1).
    """
    import numpy as np

    n, order, pull = rows.shape[2], inputs.order[:, None, :], inputs.pull
    weights = np.ascontiguousarray(np.take_along_axis(rows, order, axis=2).transpose(0, 2, 1), np.float32)
    scales = steps[:, :, 0].astype(np.float32)
    made, errors = np.empty_like(weights), np.empty_like(weights)  # (groups, n, out)
    for start in range(0, n, _BLOCK):
        stop = min(n, start + _BLOCK)
        aims = weights[:, start:stop] + pull[:, start:stop, :start] @ errors[:, :start]
        for j in range(start, stop):
            aim = aims[:, j - start] + (pull[:, j, None, start:j] @ errors[:, start:j])[:, 0]
            made[:, j] = np.minimum(np.maximum(np.rint(aim / scales), -_LEVELS), _LEVELS)
            errors[:, j] = weights[:, j] - made[:, j] * scales
    back = np.argsort(order, axis=2)
    return np.take_along_axis(made.transpose(0, 2, 1), back, axis=2).astype(np.float64)
