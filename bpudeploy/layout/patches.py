"""Cut images into patches by small steps, for an accelerator that computes a large stride at a smaller one.

A convolution whose kernel is as large as its stride k reads every pixel once. Two by two pixels become channels first,
by a 2x2 convolution of zeros and ones, until the stride is small enough; the weights move to the new channels. A stride
of 16 that is computed at stride 2 costs 64 times too much. Of a side that is odd, 7 of a patch of 14, the rows become
channels, by one more such convolution.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bpudeploy.restructure.edit import emit, store, tidy
from bpudeploy.restructure.graph import Graph, Node


def step_patches(graph: Graph, stride: int) -> int:
    """Halve the stride of patch convolutions until it is at most ``stride``, and put the rows of a patch whose side is
    odd into channels; return how many were changed.
    """
    count = 0
    for node in list(graph.nodes.values()):
        side = _patch(graph, node)
        if side is None or side <= stride:
            continue
        tensor, weight = node.inputs[0], graph.constants[node.inputs[1]]
        while side > stride and side % 2 == 0:
            tensor, weight = _to_channels(graph, tensor, weight, (2, 2), node.name)
            side //= 2
        if side > stride:
            tensor, weight = _to_channels(graph, tensor, weight, (side, 1), node.name)
        inputs = [tensor, store(graph, weight, f"{node.name}.weight.stepped"), *node.inputs[2:]]
        kernel = list(weight.shape[2:])
        window = {"kernel_shape": kernel, "strides": kernel}
        graph.nodes[node.name] = Node("Conv", node.name, inputs, node.shape, node.attributes | window)
        count += 1
    if count:
        tidy(graph)
    return count


def _patch(graph: Graph, node: Node) -> int | None:
    """Return the side of the patches that a Conv cuts its input into, or None."""
    given = node.attributes
    if node.op != "Conv" or node.inputs[1] not in graph.constants or given.get("group", 1) != 1:
        return None
    kernel = list(graph.constants[node.inputs[1]].shape[2:])
    whole = all(n % k == 0 for n, k in zip(graph.shape(node.inputs[0])[2:], kernel, strict=True))
    plain = not any(given.get("pads", [0])) and max(given.get("dilations", [1])) == 1
    return kernel[0] if whole and plain and kernel == list(given.get("strides", [1, 1])) == kernel[::-1] else None


def _to_channels(
    graph: Graph, tensor: str, weight: NDArray[np.generic], step: tuple[int, int], base: str
) -> tuple[str, NDArray[np.generic]]:
    """Move pixels to channels: return (N, C, H, W) as (N, C i j, H/i, W/j), and the weights for it.

    ``weight``: (out, C, k, l) of a convolution with as large a stride; returned as (out, C i j, k/i, l/j). Channel
    (c i + a) j + b is pixel (a, b) of channel c.
    """
    n, channels, height, width = graph.shape(tensor)
    rows, columns = step
    area, channel = rows * columns, np.arange(channels)
    ones = np.zeros((channels, area, channels, rows, columns), np.float32)
    for i in range(area):
        ones[channel, i, channel, i // columns, i % columns] = 1.0
    kernel = store(graph, ones.reshape(channels * area, channels, rows, columns), f"{base}.pixels")
    window = {"kernel_shape": [*step], "strides": [*step], "pads": [0] * 4, "dilations": [1, 1], "group": 1}
    shape = (n, channels * area, height // rows, width // columns)
    out, _, k, m = weight.shape
    fine = weight.reshape(out, channels, k // rows, rows, m // columns, columns).transpose(0, 1, 3, 5, 2, 4)
    moved = np.ascontiguousarray(fine.reshape(out, channels * area, k // rows, m // columns))
    return emit(graph, "Conv", f"{base}.step", [tensor, kernel], shape, **window), moved
