"""Move every second pixel to channels, windows, or back, by one operator.

The exact rewrite moves the 2 x 2 pixels of (N, C, 2 H, 2 W) to the channels of (N, 4 C, H, W), as patch merging does,
or to axis 0, as MobileViT does, by Reshapes and Transposes that an accelerator with channels last must carry out value
by value. A 2x2 convolution of zeros and ones moves them to channels, a DepthToSpace moves them back, and slices of the
channels are joined on axis 0.
"""

from __future__ import annotations

import numpy as np

from bpudeploy.layout.moves import Indices, ends, indices, numbered
from bpudeploy.restructure.edit import emit, reshape, slice_axis, store, tidy
from bpudeploy.restructure.graph import Graph

_SIDE, _AREA = 2, 4


def move_pixels(graph: Graph) -> int:
    """Rewrite every move of 2 x 2 pixels to or from channels or axis 0; return how many."""
    count = 0
    for name, source in ends(graph):
        before, after = numbered(graph.shape(source)), indices(graph, name, source)
        made = _to_channels(graph, source, name, before, after) or _to_pixels(graph, source, name, before, after)
        if made is None:
            continue
        if graph.shape(made) != after.shape:
            made = reshape(graph, made, after.shape, f"{name}.shaped")
        graph.replace_uses(name, made)
        count += 1
    if count:
        tidy(graph)
    return count


def _to_channels(graph: Graph, source: str, base: str, image: Indices, moved: Indices) -> str | None:
    """Return the move of 2 x 2 pixels to channels, or to axis 0 of one image, or None if it is another move."""
    order = _order(image, moved)
    if order is None:
        return None
    n, channels, height, width = image.shape
    ones = np.zeros((_AREA * channels, channels * _AREA), np.float32)
    ones[np.arange(_AREA * channels), order] = 1.0  # which channel and pixel, (c, a, b), each of the results is
    weights = store(graph, ones.reshape(_AREA * channels, channels, _SIDE, _SIDE), f"{base}.pixels")
    window = {"kernel_shape": [_SIDE] * 2, "strides": [_SIDE] * 2, "pads": [0] * 4, "dilations": [1, 1], "group": 1}
    shape = (n, _AREA * channels, height // _SIDE, width // _SIDE)
    made = emit(graph, "Conv", f"{base}.step", [source, weights], shape, **window)
    return made if moved.shape[1] == shape[1] else _regrouped(graph, made, 1, 0, base)


def _to_pixels(graph: Graph, source: str, base: str, channels: Indices, image: Indices) -> str | None:
    """Return the move of channels, or of axis 0, to 2 x 2 pixels of one image, or None if it is another move."""
    order = _order(image, channels)
    n, count, height, width = image.shape
    by_pixel = np.arange(count * _AREA).reshape(count, _AREA).T.ravel()  # DepthToSpace reads (a, b, c)
    if order is None or not np.array_equal(order, by_pixel):
        return None
    shape = (n, _AREA * count, height // _SIDE, width // _SIDE)
    tensor = source
    if channels.shape[1] != shape[1]:
        tensor = reshape(graph, source, (_AREA, count, *shape[2:]), f"{base}.pixels")
        tensor = _regrouped(graph, tensor, 0, 1, base)
    elif channels.shape != shape:
        tensor = reshape(graph, source, shape, f"{base}.pixels")
    return emit(graph, "DepthToSpace", f"{base}.step", [tensor], image.shape, blocksize=_SIDE, mode="DCR")


def _order(image: Indices, moved: Indices) -> Indices | None:
    """Return which channel and pixel (c, a, b) each channel of ``moved``, or channel of each element of axis 0, is.

    None if ``moved`` is not (N, 4 C, H, W) or (4, C, H, W), or its tokens in a row, of (N, C, 2 H, 2 W) ``image``.
    """
    n, channels, height, width = image.shape
    half = (height // _SIDE, width // _SIDE)
    if (
        height % _SIDE
        or width % _SIDE
        or image.size != moved.size
        or moved.shape[2:] not in (half, (1, half[0] * half[1]))
    ):
        return None
    if moved.shape[:2] != (n, _AREA * channels) and (n, *moved.shape[:2]) != (1, _AREA, channels):
        return None
    fine = image.reshape(n, channels, half[0], _SIDE, half[1], _SIDE).transpose(0, 1, 3, 5, 2, 4)
    fine = fine.reshape(n, channels * _AREA, -1)
    given = moved.reshape(n, channels * _AREA, -1)
    first = {value: i for i, value in enumerate(fine[0, :, 0].tolist())}
    found = [first.get(value) for value in given[0, :, 0].tolist()]
    if None in found:
        return None
    order = np.array(found)
    return order if np.array_equal(fine[:, order], given) else None


def _regrouped(graph: Graph, tensor: str, source: int, target: int, base: str) -> str:
    """Cut a tensor into four on the axis ``source``, and join them on the axis ``target``."""
    shape = list(graph.shape(tensor))
    size = shape[source] // _AREA
    parts = [slice_axis(graph, tensor, source, i * size, (i + 1) * size, f"{base}.slice") for i in range(_AREA)]
    shape[source], shape[target] = size, _AREA * shape[target]
    return emit(graph, "Concat", f"{base}.regrouped", parts, shape, axis=target)
