"""Cut images into patches by small steps, for an accelerator that computes a large stride at a smaller one.

A convolution whose kernel is as large as its stride k reads every pixel once. Two by two pixels become channels first,
by a 2x2 convolution of zeros and ones, until the stride is small enough; the weights move to the new channels. A stride
of 16 that is computed at stride 2 costs 64 times too much.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bpudeploy.restructure.edit import emit, store, tidy
from bpudeploy.restructure.graph import Graph, Node

_STEP = 2


def step_patches(graph: Graph, stride: int) -> int:
    """Halve the stride of patch convolutions until it is at most ``stride`` or odd; return how many were changed."""
    count = 0
    for node in list(graph.nodes.values()):
        side = _patch(graph, node)
        if side is None or side <= stride or side % _STEP:
            continue
        tensor, weight = node.inputs[0], graph.constants[node.inputs[1]]
        while side > stride and side % _STEP == 0:
            tensor = _pixels_to_channels(graph, tensor, node.name)
            weight, side = _moved(weight), side // _STEP
        inputs = [tensor, store(graph, weight, f"{node.name}.weight.stepped"), *node.inputs[2:]]
        window = {"kernel_shape": [side, side], "strides": [side, side]}
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


def _pixels_to_channels(graph: Graph, tensor: str, base: str) -> str:
    """Append a Conv (N, C, H, W) -> (N, 4 C, H/2, W/2): output channel 4 c + 2 i + j is pixel (i, j) of channel c."""
    n, channels, height, width = graph.shape(tensor)
    weight = np.zeros((channels, 4, channels, _STEP, _STEP), np.float32)
    for i in range(4):
        weight[np.arange(channels), i, np.arange(channels), i // 2, i % 2] = 1.0
    kernel = store(graph, weight.reshape(4 * channels, channels, _STEP, _STEP), f"{base}.pixels")
    window = {"kernel_shape": [_STEP] * 2, "strides": [_STEP] * 2, "pads": [0] * 4, "dilations": [1, 1], "group": 1}
    shape = (n, 4 * channels, height // _STEP, width // _STEP)
    return emit(graph, "Conv", f"{base}.step", [tensor, kernel], shape, **window)


def _moved(weight: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return (out, C, k, k) as (out, 4 C, k/2, k/2), in the channel order of ``_pixels_to_channels``."""
    out, channels, k, _ = weight.shape
    fine = weight.reshape(out, channels, k // 2, 2, k // 2, 2).transpose(0, 1, 3, 5, 2, 4)
    return np.ascontiguousarray(fine.reshape(out, 4 * channels, k // 2, k // 2))
