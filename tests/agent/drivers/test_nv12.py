"""NV12 is BT.601 full range, and nearly lossless."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bpudeploy.agent.drivers import nv12
from tests.agent.drivers.small import pictures
from tests.fakes.board.network import rgb


def vendor(picture: Any) -> tuple[Any, Any, Any]:
    """Return Y, U and V by horizon_tc_ui's rgb2bt601_full_range."""
    r, g, b = (picture[..., i].astype(np.float64) for i in range(3))
    y = 0.299 * r + 0.587 * g + 0.114 * b
    return y, -0.169 * r - 0.331 * g + 0.5 * b + 128, 0.5 * r - 0.419 * g - 0.081 * b + 128


@pytest.mark.parametrize(
    ("colour", "yuv"),
    [
        ((0, 0, 0), (0, 128, 128)),  # limited range would be 16
        ((255, 255, 255), (255, 128, 128)),  # and 235
        ((255, 0, 0), (76, 85, 255)),
        ((0, 255, 0), (150, 44, 21)),
        ((0, 0, 255), (29, 255, 107)),
    ],
)
def test_colours_are_full_range(colour: tuple[int, ...], yuv: tuple[int, ...]) -> None:
    y, uv = nv12.planes(np.full((1, 2, 2, 3), colour, np.uint8))
    assert (y[0, 0, 0, 0], *uv[0, 0, 0]) == yuv


def test_the_vendors_own_conversion_is_within_one_level() -> None:
    coarse = np.random.default_rng(1).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8).repeat(2, 1).repeat(2, 2)
    y, uv = nv12.planes(coarse)
    theirs = vendor(coarse)
    assert np.abs(y[..., 0] - theirs[0]).max() <= 0.51
    for channel in (0, 1):
        wanted = np.clip(theirs[channel + 1][:, ::2, ::2], 0, 255)
        assert np.abs(uv[..., channel] - wanted).max() <= 0.7


def test_where_2x2_pixels_agree_the_round_trip_is_within_two_levels() -> None:
    flat = np.random.default_rng(2).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8).repeat(2, 1).repeat(2, 2)
    back = rgb(*nv12.planes(flat)).astype(int)
    assert np.abs(back - flat).max() <= 2
    assert abs((back - flat).mean()) < 0.1, "rounded, not cut off"


def test_noise_keeps_its_luma_and_its_mean_chroma() -> None:
    noise = np.random.default_rng(3).integers(64, 192, (1, 64, 64, 3), dtype=np.uint8)
    y, uv = nv12.planes(noise)
    mean = noise.reshape(1, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    assert np.abs(y[..., 0] - vendor(noise)[0]).max() <= 0.51
    assert np.abs(uv[..., 0] - vendor(mean)[1]).max() <= 0.7


def test_a_packed_picture_is_y_then_u_and_v_in_turn() -> None:
    picture = pictures(height=4, width=6)
    y, uv = nv12.planes(picture)
    flat = nv12.packed(picture)
    assert flat.shape == (4 * 6 * 3 // 2,) and flat.dtype == np.uint8 and flat.flags.c_contiguous
    assert flat[:24].tolist() == y.ravel().tolist() and flat[24:26].tolist() == uv[0, 0, 0].tolist()


@pytest.mark.parametrize("shape", [(1, 3, 4, 3), (1, 4, 5, 3), (1, 4, 4, 1)])
def test_unsupported_shapes_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not an RGB uint8"):
        nv12.planes(np.zeros(shape, np.uint8))
