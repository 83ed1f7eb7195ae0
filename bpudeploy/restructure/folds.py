"""The exact folds, one function a formula, all in float64. Each has its own equality test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bpudeploy.restructure.weights import Linear, Norm

if TYPE_CHECKING:
    from bpudeploy.restructure.weights import F64


def centre(linear: Linear) -> Linear:
    """Fold P = I - 11ᵀ/C into a writer of the residual stream: P(Wx + b) = (PW)x + Pb.

    When every writer is centred, the stream has channel mean zero at every token, so LayerNorm's
    mean is zero and its variance is the mean square: LN(x) = γ · x / sqrt(mean(x²) + ε) + β.
    LayerNorm itself does not see the mean that P takes away.
    """
    return Linear(linear.weight - linear.weight.mean(axis=0), linear.bias - linear.bias.mean())


def centre_tokens(tokens: F64) -> F64:
    """Fold P into constants of the residual stream, (C, N)."""
    centred: F64 = tokens - tokens.mean(axis=0)
    return centred


def scale_rows(linear: Linear, factor: F64 | float) -> Linear:
    """Fold an output scale (LayerScale, or 1/√d into q): s·(Wx + b) = (diag(s)W)x + s·b."""
    column = factor if isinstance(factor, float) else factor[:, None]
    return Linear(linear.weight * column, linear.bias * factor)


def absorb_norm(linear: Linear, norm: Norm) -> Linear:
    """Fold the affine end of the norm before: W(γ·x + β) + b = (W diag(γ))x + (b + Wβ)."""
    return Linear(linear.weight * norm.gamma, linear.bias + linear.weight @ norm.beta)


def drop_key_bias(key: Linear) -> Linear:
    """Drop the key's bias: q·(k + b) = q·k + q·b, and q·b is the same for every key, so softmax removes it."""
    return Linear(key.weight, key.bias * 0.0)


def move_value_bias(value: Linear, proj: Linear) -> tuple[Linear, Linear]:
    """Move the value's bias behind the attention: softmax rows sum to 1, so A(v + b) = Av + b.

    The projection then carries it: b' = b_proj + W_proj·b.
    """
    return Linear(value.weight, value.bias * 0.0), Linear(proj.weight, proj.bias + proj.weight @ value.bias)
