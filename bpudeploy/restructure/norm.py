"""LayerNorm of a centred stream as a convolution: x / sqrt(mean_c(x²) + ε)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bpudeploy.restructure.graph import GraphBuilder


def rms_norm(graph: GraphBuilder, name: str, x: str, *, channels: int, eps: float) -> str:
    """Append the norm of ``x`` (1, C, 1, N), whose channel mean is zero; γ and β are the next conv's.

    mean_c(x²) + ε is one 1x1 Conv, C to 1, with weights 1/C and bias ε. Opset 11 has no rsqrt, so
    Sqrt and Reciprocal. All of it is kept in float: x² needs twice the bits of x.
    """
    import numpy as np

    weight = graph.constant(f"norm.mean{channels}", np.full((1, channels, 1, 1), 1.0 / channels))
    bias = graph.constant(f"norm.eps{eps:g}", np.array([eps]))
    square = graph.node("Mul", f"{name}.square", [x, x], keep_float=True)
    mean = graph.node("Conv", f"{name}.mean", [square, weight, bias], keep_float=True, kernel_shape=[1, 1])
    root = graph.node("Sqrt", f"{name}.sqrt", [mean], keep_float=True)
    inverse = graph.node("Reciprocal", f"{name}.rsqrt", [root], keep_float=True)
    return graph.node("Mul", name, [x, inverse], keep_float=True)
