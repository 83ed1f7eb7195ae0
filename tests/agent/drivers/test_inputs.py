"""Which inputs are taken for an image: a layout is guessed only for U8, and only among the driver's formats."""

from __future__ import annotations

import pytest

from bpudeploy.agent.drivers.base import Refused
from bpudeploy.agent.drivers.tensors import ImageInput, image_input

ALL = ("packed", "planes", "NHWC", "NCHW")


@pytest.mark.parametrize(
    ("kind", "shape", "layout", "forms", "taken"),
    [
        ("NV12", (1, 3, 4, 6), "NCHW", ALL, ImageInput("packed", 1, 4, 6)),
        ("RGB", (2, 4, 6, 3), "NHWC", ALL, ImageInput("NHWC", 2, 4, 6)),
        ("U8", (1, 4, 6, 3), None, ALL, ImageInput("NHWC", 1, 4, 6)),
        ("U8", (1, 3, 4, 6), None, ALL, ImageInput("NCHW", 1, 4, 6)),
    ],
)
def test_an_image_is_recognized(
    kind: str, shape: tuple[int, ...], layout: str | None, forms: tuple[str, ...], taken: ImageInput
) -> None:
    assert image_input([("x", kind, shape, layout)], forms, "hint") == taken


@pytest.mark.parametrize(
    ("kind", "shape", "layout", "forms", "message"),
    [
        ("NV12", (1, 3, 4, 6), None, ALL, "in layout"),
        ("RGB", (1, 4, 6, 3), None, ALL, "inputs are x RGB"),
        ("U8", (1, 4, 6, 3), "NHWC", ALL, "inputs are x U8"),
        ("U8", (1, 3, 4, 6), None, ("packed", "planes", "NHWC"), "inputs are x U8"),
        ("U8", (1, 4, 6, 5), None, ("packed", "planes", "NHWC"), "inputs are x U8"),
    ],
)
def test_another_input_is_refused(
    kind: str, shape: tuple[int, ...], layout: str | None, forms: tuple[str, ...], message: str
) -> None:
    with pytest.raises(Refused, match=message):
        image_input([("x", kind, shape, layout)], forms, "hint")
