"""The replacements of torch's operators during a trace are equal to them, and are removed after."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

import bpudeploy.restructure.traceable as replacements
from bpudeploy.restructure.traceable import traceable

X = torch.randn(2, 6, 13, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [1, 5, (13, 5), (7, 3), (None, 4)])
def test_adaptive_pools(size: Any) -> None:
    torch.testing.assert_close(replacements.adaptive_avg_pool2d(X, size), functional.adaptive_avg_pool2d(X, size))


@pytest.mark.parametrize("eps", [None, 1e-6])
def test_rms_norm(eps: float | None) -> None:
    weight = torch.rand(10)
    torch.testing.assert_close(replacements.rms_norm(X, (10,), weight, eps), functional.rms_norm(X, (10,), weight, eps))
    torch.testing.assert_close(
        replacements.rms_norm(X, (13, 10), None, eps), functional.rms_norm(X, (13, 10), None, eps)
    )


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(3, 1, 1, 1), (2, 2, 0, 1), ((3, 2), (2, 1), (1, 0), (2, 1))]
)
def test_patches_and_back(kernel: Any, stride: Any, padding: Any, dilation: Any) -> None:
    how = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    patches = functional.unfold(X, **how)
    torch.testing.assert_close(replacements.im2col(X, **how), patches)
    torch.testing.assert_close(replacements.col2im(patches, (13, 10), **how), functional.fold(patches, (13, 10), **how))


@pytest.mark.parametrize(("axis", "size", "step"), [(2, 4, 3), (-1, 3, 1), (1, 2, 2)])
def test_windows(axis: int, size: int, step: int) -> None:
    torch.testing.assert_close(replacements.unfold(X, axis, size, step), X.unfold(axis, size, step))


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_an_antialiased_resize(mode: str) -> None:
    expected = functional.interpolate(X, (7, 16), mode=mode, antialias=True, align_corners=False)
    with traceable():
        made = functional.interpolate(X, (7, 16), mode=mode, antialias=True, align_corners=False)
    torch.testing.assert_close(made, expected)


def test_expand() -> None:
    with traceable():
        made = X[:, :1].expand(-1, 6, 13, -1), X.expand((3, -1, -1, -1, -1))
    assert made[0].shape == (2, 6, 13, 10) and made[1].shape == (3, 2, 6, 13, 10)


def test_torch_is_restored_after_a_failed_trace() -> None:
    before = (functional.fold, functional.interpolate, torch.Tensor.unfold, torch.rms_norm)
    with pytest.raises(ZeroDivisionError), traceable():
        assert functional.fold is not before[0]
        raise ZeroDivisionError
    assert (functional.fold, functional.interpolate, torch.Tensor.unfold, torch.rms_norm) == before
