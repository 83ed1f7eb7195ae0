"""Weight quantization: one scale per output channel, rounding that minimizes the output error, and bias correction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from bpudeploy.onnxmodel import attribute
from bpudeploy.quantize.arrays import F32, F64, I64
from bpudeploy.spec.precision import Precision
from bpudeploy.spec.quantize import WeightRounding, WeightScale, WeightSpec

_LEVELS = Precision.INT8.levels
_BIAS_LEVELS = 2.0**30
"""Half the range of an int32 bias: bias correction and another scale of the input may add to it."""
_SHARES = 16
_DAMPING = 0.01
"""Added to the diagonal of the input covariance, relative to its mean (Frantar et al. 2023, section 3.3)."""
_BLOCK = 128


@dataclass(frozen=True, eq=False)
class ConvWeights:
    """The weights of a Conv as matrices: ``rows`` float64 (groups, out / groups, n) with n = in / groups * kh * kw."""

    node: str
    rows: F64
    shape: tuple[int, ...]
    bias: F64 | None

    @classmethod
    def of(cls, node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> ConvWeights:
        """Read the weights and bias of a Conv."""
        groups = attribute(node, "group", 1)
        weight, *bias = (numpy_helper.to_array(constants[name]).astype(np.float64) for name in node.input[1:])
        rows = weight.reshape(groups, len(weight) // groups, -1)
        return cls(node.name, rows, weight.shape, bias[0] if bias else None)

    @property
    def macs_per_value(self) -> float:
        """The multiply-accumulates for each value that it reads, at stride 1."""
        return self.rows.size / (len(self.rows) * self.shape[1])

    def grouped(self, columns: F32) -> F32:
        """Return columns (C * kh * kw, k) as (groups, n, k)."""
        return columns.reshape(len(self.rows), self.rows.shape[2], -1)

    def spread(self, factors: F64) -> F64:
        """Return one factor per input channel as one per row element: (groups, 1, n)."""
        window = self.shape[2] * self.shape[3]
        return np.repeat(factors, window).reshape(len(self.rows), 1, -1)


@dataclass(frozen=True, eq=False)
class QuantizedWeights:
    """``integers`` int8, in the shape of the weights; ``scales`` float64 (out,); ``bias`` float64 (out,) or None."""

    integers: NDArray[np.int8]
    scales: F64
    bias: F64 | None

    @property
    def weight(self) -> F64:
        """The dequantized weights."""
        scaled: F64 = self.integers * self.scales.reshape(-1, *[1] * (self.integers.ndim - 1))
        return scaled


def fake_quantize(values: F32, steps: F32 | np.float32, top: float) -> F32:
    """Return ``values`` rounded to multiples of ``steps`` (broadcast) and clipped at ±``top`` steps, in float32."""
    rounded: F32 = np.clip(np.rint(values / steps), -top, top) * steps
    return rounded


def weight_scales(rows: F64, spec: WeightSpec) -> F64:
    """Return the int8 scale of each row of (out, n); a row of zeros gets scale 1.

    ``max``: max |w| / 127. ``mse``: 0.5 to 1.0 times that, minimizing the squared error.
    """
    largest: F64 = np.abs(rows).max(axis=1) / _LEVELS
    if not spec.per_channel:
        largest[:] = largest.max()
    largest[largest == 0.0] = 1.0
    if spec.scale is WeightScale.MAX:
        return largest
    best, chosen, weights = np.full(len(rows), np.inf), largest.copy(), rows.astype(np.float32)
    for share in np.linspace(1.0, 0.5, _SHARES):
        scales = (largest * share)[:, None]
        missed = weights - fake_quantize(weights, scales.astype(np.float32), _LEVELS)
        error = np.einsum("ij,ij->i", missed, missed).astype(np.float64)
        error = error if spec.per_channel else np.full(len(rows), error.sum())
        better = error < best
        best[better], chosen[better] = error[better], scales[better, 0]
    return chosen


@dataclass(frozen=True, eq=False)
class ConvSamples:
    """Sampled inputs of a Conv, float32 (groups, n, k): ``given`` in float, ``rounded`` in int8 steps.

    ``order`` (groups, n) sorts the inputs of a group, strongest first. ``pull`` (groups, n, n) is lower triangular with
    A[i, j] / A[j, j] at (j, i), where A is upper triangular and A A' is their damped covariance in that order.
    Convs that read the same input share them.
    """

    given: F32
    rounded: F32
    order: I64
    pull: F32

    @classmethod
    def of(cls, columns: F32, groups: int, step: float, limit: float) -> ConvSamples:
        """Take columns (C * kh * kw, k), rounded by ``step`` and clipped at ``limit``."""
        given = columns.reshape(groups, len(columns) // groups, -1)
        rounded = fake_quantize(given, np.float32(step), round(limit / step))
        covariance = rounded @ rounded.transpose(0, 2, 1) / np.float32(rounded.shape[2])
        strength = np.einsum("gii->gi", covariance)
        order = np.argsort(-strength, axis=1, kind="stable")
        damping = _DAMPING * np.maximum(strength.mean(axis=1), np.float32(1e-30))
        sorted_ = covariance[np.arange(groups)[:, None, None], order[:, :, None], order[:, None, :]]
        sorted_ += damping[:, None, None] * np.eye(given.shape[1], dtype=np.float32)
        # Cholesky of the reversed matrix gives the upper triangular factor.
        factor = np.linalg.cholesky(sorted_[:, ::-1, ::-1].astype(np.float64))[:, ::-1, ::-1]
        pull = (factor / np.einsum("gii->gi", factor)[:, None, :]).transpose(0, 2, 1)
        return cls(given, rounded, order, np.ascontiguousarray(pull, np.float32))


def quantize_weights(
    weights: ConvWeights, samples: ConvSamples | None, spec: WeightSpec, step: float
) -> QuantizedWeights:
    """Quantize the weights of a Conv; ``samples`` is None if calibration has none of its inputs.

    A channel whose bias would not fit int32 with a scale of ``step`` (that of the input) times its own gets a wider
    scale: its weights are then small beside its bias.
    """
    groups, out, n = weights.rows.shape
    scales = weight_scales(weights.rows.reshape(-1, n), spec)
    if weights.bias is not None:
        scales = np.maximum(scales, np.abs(weights.bias) / (step * _BIAS_LEVELS))
    steps = scales.reshape(groups, out, 1)
    if samples is not None and spec.rounding is WeightRounding.RECONSTRUCT:
        integers = _reconstruct(weights.rows, samples, steps)
    else:
        integers = np.clip(np.rint(weights.rows / steps), -_LEVELS, _LEVELS)
    bias = weights.bias
    if samples is not None and spec.correct_bias:
        means = [part.mean(axis=2, dtype=np.float64)[:, :, None] for part in (samples.given, samples.rounded)]
        missing = (weights.rows @ means[0] - (integers * steps) @ means[1]).reshape(-1)
        bias = missing if bias is None else bias + missing
    return QuantizedWeights(integers.reshape(weights.shape).astype(np.int8), scales, bias)


def _reconstruct(rows: F64, samples: ConvSamples, steps: F64) -> F64:
    """Round one input after another, each compensating the errors of the previous ones (GPTQ).

    With H = A A' the covariance of the inputs, the squared error e' H e of a row is the sum over j of
    (A[j, j] e[j] + sum of A[i, j] e[i] over i < j)^2; each step takes the integer nearest to the remaining value.
    This is GPTQ (Frantar et al., ICLR 2023, algorithm 1) without inverting H, known as Babai's nearest plane (Chen et
    al. 2025, "The Geometry of LLM Quantization").

    Args:
        rows: (groups, out, n). steps: (groups, out, 1).
    """
    n, order, pull = rows.shape[2], samples.order[:, None, :], samples.pull
    weights = np.ascontiguousarray(np.take_along_axis(rows, order, axis=2).transpose(0, 2, 1), np.float32)
    scales = steps[:, :, 0].astype(np.float32)
    integers, errors = np.empty_like(weights), np.empty_like(weights)  # (groups, n, out)
    for start in range(0, n, _BLOCK):
        stop = min(n, start + _BLOCK)
        targets = weights[:, start:stop] + pull[:, start:stop, :start] @ errors[:, :start]
        for j in range(start, stop):
            target = targets[:, j - start] + (pull[:, j, None, start:j] @ errors[:, start:j])[:, 0]
            integers[:, j] = np.minimum(np.maximum(np.rint(target / scales), -_LEVELS), _LEVELS)
            errors[:, j] = weights[:, j] - integers[:, j] * scales
    back = np.argsort(order, axis=2)
    return np.take_along_axis(integers.transpose(0, 2, 1), back, axis=2).astype(np.float64)
