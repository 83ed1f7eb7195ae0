"""Exportable equivalents of operators that torch's ONNX exporter does not support, used while tracing.

They rely on sizes being known numbers during a trace. Each is equal to torch's operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    import torch


@contextmanager
def traceable() -> Iterator[None]:
    """Replace torch's operators by the equivalents below inside the block."""
    import torch
    from torch.nn import functional

    replaced: dict[str, Any] = {"adaptive_avg_pool2d": adaptive_avg_pool2d, "unfold": im2col, "fold": col2im}
    with (
        patch.multiple(torch, rms_norm=rms_norm),
        patch.multiple(functional, interpolate=_interpolate(), **replaced),
        patch.multiple(torch.Tensor, unfold=unfold, expand=_expand()),
    ):
        yield


def rms_norm(x: torch.Tensor, shape: Any, weight: torch.Tensor | None = None, eps: float | None = None) -> torch.Tensor:
    """Return x / sqrt(mean(x²) + ε) · w over the last axes; ε defaults to the dtype's."""
    import torch

    axes = tuple(range(-len(shape), 0))
    root = torch.sqrt((x * x).mean(axes, keepdim=True) + (torch.finfo(x.dtype).eps if eps is None else eps))
    return x / root if weight is None else x / root * weight


def adaptive_avg_pool2d(x: torch.Tensor, size: Any) -> torch.Tensor:
    """Return the means over bins: a pool if bins are equal, else the product A_h x A_wᵀ with constant matrices."""
    import torch

    given = [int(n) for n in x.shape[-2:]]
    pair = [size, size] if isinstance(size, int) else list(size)
    wanted = [n if m is None else int(m) for n, m in zip(given, pair, strict=True)]
    if all(n % m == 0 for n, m in zip(given, wanted, strict=True)):
        kernel = [n // m for n, m in zip(given, wanted, strict=True)]
        return x.mean((-2, -1), keepdim=True) if wanted == [1, 1] else torch.nn.functional.avg_pool2d(x, kernel)
    rows, columns = (bins(n, m) for n, m in zip(given, wanted, strict=True))
    return torch.matmul(torch.matmul(rows, x), columns.T.contiguous())


def _interpolate() -> Callable[..., torch.Tensor]:
    """Return interpolate; antialiased, it is linear and separable: a product with two constant matrices."""
    import torch

    torch_interpolate: Callable[..., torch.Tensor] = torch.nn.functional.interpolate

    def matrix(n: int, m: int, **options: Any) -> torch.Tensor:
        tracing = torch._C._get_tracing_state()  # the matrix is a constant: do not trace its computation
        torch._C._set_tracing_state(None)
        try:
            resized = torch_interpolate(torch.eye(n)[:, None, :, None].expand(n, 1, n, 2), size=(m, 2), **options)
            return resized[:, 0, :, 0].T.contiguous()
        finally:
            torch._C._set_tracing_state(tracing)

    def interpolate(x: torch.Tensor, size: Any = None, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not kwargs.get("antialias") or size is None or args or x.ndim != 4:
            return torch_interpolate(x, size, *args, **kwargs)
        rows, columns = (int(n) for n in x.shape[-2:])
        height, width = _pair(size)
        across = matrix(columns, width, **kwargs).T
        return torch.matmul(torch.matmul(matrix(rows, height, **kwargs), x), across.contiguous())

    return interpolate


def _expand() -> Callable[..., torch.Tensor]:
    """Return expand with each -1 resolved: an exporter pass overwrites a -1 shared with other nodes."""
    import torch

    torch_expand: Callable[..., torch.Tensor] = torch.Tensor.expand

    def expand(x: torch.Tensor, *sizes: Any) -> torch.Tensor:
        wanted = list(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else list(sizes)
        given = [1] * (len(wanted) - x.ndim) + [int(n) for n in x.shape]
        return torch_expand(x, [n if int(m) == -1 else int(m) for n, m in zip(given, wanted, strict=True)])

    return expand


def bins(n: int, count: int) -> torch.Tensor:
    """Return the matrix (count, n) of adaptive means: bin i is [floor(i·n/count), ceil((i + 1)·n/count))."""
    import torch

    made = torch.zeros(count, n)
    for i in range(count):
        start, stop = i * n // count, -(-(i + 1) * n // count)
        made[i, start:stop] = 1.0 / (stop - start)
    return made


def im2col(x: torch.Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> torch.Tensor:
    """Return patches (N, C·kh·kw, L) by a depthwise convolution with one-hot kernels."""
    import torch

    channels = int(x.shape[1])
    kernels = _one_hot_kernels(kernel_size).repeat(channels, 1, 1, 1)
    return torch.nn.functional.conv2d(x, kernels, None, stride, padding, dilation, channels).flatten(2)


def col2im(
    x: torch.Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> torch.Tensor:
    """Return the sum of overlapping patches, the adjoint of ``im2col``, by a transposed convolution."""
    import torch

    size, kernel, step, pad, spread = (_pair(v) for v in (output_size, kernel_size, stride, padding, dilation))
    channels = int(x.shape[1]) // (kernel[0] * kernel[1])
    reach = [d * (k - 1) + 1 for d, k in zip(spread, kernel, strict=True)]
    rows, columns = ((n + 2 * p - r) // s + 1 for n, p, r, s in zip(size, pad, reach, step, strict=True))
    extra = [(n + 2 * p - r) % s for n, p, r, s in zip(size, pad, reach, step, strict=True)]
    patches = x.reshape(int(x.shape[0]), int(x.shape[1]), rows, columns)
    kernels = _one_hot_kernels(kernel_size).repeat(channels, 1, 1, 1)
    return torch.nn.functional.conv_transpose2d(patches, kernels, None, step, pad, extra, channels, spread)


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else [int(v) for v in value]


def _one_hot_kernels(kernel_size: Any) -> torch.Tensor:
    """Return (kh·kw, 1, kh, kw): kernel i is 1 at element i of the window."""
    import torch

    rows, columns = _pair(kernel_size)
    return torch.eye(rows * columns).reshape(rows * columns, 1, rows, columns)


def unfold(x: torch.Tensor, dimension: int, size: int, step: int) -> torch.Tensor:
    """Return windows of ``size`` every ``step`` along an axis, as a new last axis, by a constant index."""
    import torch

    dimension %= x.ndim
    count = (int(x.shape[dimension]) - size) // step + 1
    index = (torch.arange(count) * step)[:, None] + torch.arange(size)
    selected = torch.index_select(x, dimension, index.reshape(-1))
    shape = [int(n) for n in x.shape]
    return selected.reshape(*shape[:dimension], count, size, *shape[dimension + 1 :]).movedim(dimension + 1, -1)
