"""Operators that torch's ONNX exporter cannot write, made of others while a model is traced.

A trace knows every size as a number, which the exporter's own forms often do not. Each is equal to torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    import torch


@contextmanager
def traceable() -> Iterator[None]:
    """Put the forms below in place of torch's inside the block."""
    import torch

    with ExitStack() as stack:
        stack.enter_context(patch.object(torch, "rms_norm", rms_norm))
        stack.enter_context(patch.object(torch.nn.functional, "interpolate", _interpolate()))
        stack.enter_context(patch.object(torch.nn.functional, "adaptive_avg_pool2d", adaptive_avg_pool2d))
        stack.enter_context(patch.object(torch.nn.functional, "unfold", im2col))
        stack.enter_context(patch.object(torch.nn.functional, "fold", col2im))
        stack.enter_context(patch.object(torch.Tensor, "unfold", unfold))
        stack.enter_context(patch.object(torch.Tensor, "expand", _expand()))
        yield


def rms_norm(x: torch.Tensor, shape: Any, weight: torch.Tensor | None = None, eps: float | None = None) -> torch.Tensor:
    """x / sqrt(mean(x²) + ε) · w over the last axes; a missing ε is that of the dtype."""
    import torch

    axes = tuple(range(-len(shape), 0))
    root = torch.sqrt((x * x).mean(axes, keepdim=True) + (torch.finfo(x.dtype).eps if eps is None else eps))
    return x / root if weight is None else x / root * weight


def adaptive_avg_pool2d(x: torch.Tensor, size: Any) -> torch.Tensor:
    """Means over bins: a pool where they are equal, else two products with constant matrices, A_h x A_wᵀ."""
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
    """Return torch's interpolate; an antialiased one is linear and separable: two products with constant matrices."""
    import torch

    own: Callable[..., torch.Tensor] = torch.nn.functional.interpolate

    def matrix(n: int, m: int, **how: Any) -> torch.Tensor:
        tracing = torch._C._get_tracing_state()  # the matrix is a constant: how it is made is not traced
        torch._C._set_tracing_state(None)
        try:
            made: torch.Tensor = own(torch.eye(n)[:, None, :, None].expand(n, 1, n, 2), size=(m, 2), **how)[
                :, 0, :, 0
            ].T.contiguous()
        finally:
            torch._C._set_tracing_state(tracing)
        return made

    def interpolate(x: torch.Tensor, size: Any = None, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not kwargs.get("antialias") or size is None or args or x.ndim != 4:
            return own(x, size, *args, **kwargs)
        rows, columns = (int(n) for n in x.shape[-2:])
        height, width = _pair(size)
        across = matrix(columns, width, **kwargs).T
        return torch.matmul(torch.matmul(matrix(rows, height, **kwargs), x), across.contiguous())

    return interpolate


def _expand() -> Callable[..., torch.Tensor]:
    """Return torch's expand with each -1 resolved: one of the exporter's passes overwrites a -1 that others share."""
    import torch

    own: Callable[..., torch.Tensor] = torch.Tensor.expand

    def expand(x: torch.Tensor, *sizes: Any) -> torch.Tensor:
        wanted = list(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else list(sizes)
        given = [1] * (len(wanted) - x.ndim) + [int(n) for n in x.shape]
        return own(x, [n if int(m) == -1 else int(m) for n, m in zip(given, wanted, strict=True)])

    return expand


def bins(n: int, count: int) -> torch.Tensor:
    """Return the matrix (count, n) of torch's adaptive means: bin i is floor(i·n/count) to ceil((i + 1)·n/count)."""
    import torch

    made = torch.zeros(count, n)
    for i in range(count):
        start, stop = i * n // count, -(-(i + 1) * n // count)
        made[i, start:stop] = 1.0 / (stop - start)
    return made


def im2col(x: torch.Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> torch.Tensor:
    """Patches (N, C·kh·kw, L) by a depthwise convolution whose kernels each pick one place of the window."""
    import torch

    channels = int(x.shape[1])
    picks = _picks(kernel_size).repeat(channels, 1, 1, 1)
    made = torch.nn.functional.conv2d(x, picks, None, stride, padding, dilation, channels)
    return made.flatten(2)


def col2im(
    x: torch.Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> torch.Tensor:
    """The adjoint of ``im2col``, overlapping patches summed: its transposed convolution."""
    import torch

    size, kernel, step, pad, spread = (_pair(v) for v in (output_size, kernel_size, stride, padding, dilation))
    channels = int(x.shape[1]) // (kernel[0] * kernel[1])
    reach = [d * (k - 1) + 1 for d, k in zip(spread, kernel, strict=True)]
    rows, columns = ((n + 2 * p - r) // s + 1 for n, p, r, s in zip(size, pad, reach, step, strict=True))
    extra = [(n + 2 * p - r) % s for n, p, r, s in zip(size, pad, reach, step, strict=True)]
    patches = x.reshape(int(x.shape[0]), int(x.shape[1]), rows, columns)
    picks = _picks(kernel_size).repeat(channels, 1, 1, 1)
    return torch.nn.functional.conv_transpose2d(patches, picks, None, step, pad, extra, channels, spread)


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else [int(v) for v in value]


def _picks(kernel_size: Any) -> torch.Tensor:
    """Return (kh·kw, 1, kh, kw): kernel i is 1 at place i of the window, else 0."""
    import torch

    rows, columns = _pair(kernel_size)
    return torch.eye(rows * columns).reshape(rows * columns, 1, rows, columns)


def unfold(x: torch.Tensor, dimension: int, size: int, step: int) -> torch.Tensor:
    """Windows of ``size`` every ``step`` along an axis, as a new last axis: a selection by constant places."""
    import torch

    dimension %= x.ndim
    count = (int(x.shape[dimension]) - size) // step + 1
    places = (torch.arange(count) * step)[:, None] + torch.arange(size)
    chosen = torch.index_select(x, dimension, places.reshape(-1))
    shape = [int(n) for n in x.shape]
    return chosen.reshape(*shape[:dimension], count, size, *shape[dimension + 1 :]).movedim(dimension + 1, -1)
