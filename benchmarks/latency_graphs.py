"""The networks behind the published latencies: which graph stands for which row, and why some rows have none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import onnx
import torch

from benchmarks.yolo_shapes import Task, yolo

_NAMED = {
    "mobilenetv2": "mobilenetv2_100",  # 3.4 M parameters
    "mobilenetv4": "mobilenetv4_conv_small",  # 3.76 M
    "repghost": "repghostnet_100",  # 4.07 M
    "repvit": "repvit_m0_9",  # 5.1 M
    "efficientvit_msra_m5": "efficientvit_m5",
}
"""Names of the table that say less than timm's; told apart by their parameters."""
_YOLO = re.compile(r"YOLO(?P<family>v5|v8|11|12)(?P<scale>[nsmlx])(?P<release>u|_v2\.0|_v7\.0)?(-\w+)?")
_RELEASES = {"_v2.0": 2, "_v7.0": 7}
ALL_INT16 = frozenset(("EfficientFormer_l1",))
"""Published with every node in int16 (github.com/D-Robotics/rdk_model_zoo, its conversion configuration)."""


@dataclass(frozen=True)
class Network:
    """A graph that stands for published rows: the table's name, task and input size."""

    model: str
    task: str
    pixels: int

    def graph(self) -> tuple[onnx.ModelProto, frozenset[str]]:
        """Return the graph as the vendor's user exports it, and which of its inputs are weights."""
        from bpudeploy.inspection import load_models
        from bpudeploy.restructure.export import export

        if not _YOLO.fullmatch(self.model) and self.model != "GoogLeNet":
            name = _NAMED.get(self.model.lower(), self.model.lower())
            ((subject, _),) = load_models(name, original=True, image_size=self.pixels)
            return subject.model, subject.constants
        module = self.module()
        with idle_convolutions():
            return export(module, (1, 3, self.pixels, self.pixels)), frozenset(module.state_dict())

    def module(self) -> torch.nn.Module:
        """Return the network of a row that timm does not have."""
        if self.model == "GoogLeNet":
            from bpudeploy.stages.timm_models import timm

            timm()  # declares what torchvision needs with a CPU build of torch
            from torchvision.models import googlenet

            module: torch.nn.Module = googlenet(weights=None, aux_logits=False, init_weights=False).eval()
            return module
        found = _YOLO.fullmatch(self.model)
        assert found is not None
        release = _RELEASES.get(found["release"] or "", 8)
        return yolo(found["family"], found["scale"], Task(self.task), release=release)


class _Idle(torch.autograd.Function):  # type: ignore[misc]
    """A convolution of the right shape, all zeros: a trace needs no more."""

    @staticmethod
    def forward(ctx: Any, x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        return x.new_zeros((int(x.shape[0]), int(w.shape[0]), *_sides(x.shape, w.shape, stride, padding, dilation)))

    @staticmethod
    def symbolic(g: Any, x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        given, kernel = x.type().sizes(), w.type().sizes()
        made = g.op(
            "Conv",
            *([x, w] if b is None or b.node().mustBeNone() else [x, w, b]),
            kernel_shape_i=kernel[2:],
            strides_i=list(stride),
            pads_i=[*padding, *padding],
            dilations_i=list(dilation),
            group_i=groups,
        )
        made.setType(x.type().with_sizes([given[0], kernel[0], *_sides(given, kernel, stride, padding, dilation)]))
        return made


def _sides(given: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> list[int]:
    each = zip(given[2:], kernel[2:], padding, dilation, stride, strict=True)
    return [(int(n) + 2 * p - d * (int(k) - 1) - 1) // s + 1 for n, k, p, d, s in each]


@contextmanager
def idle_convolutions() -> Iterator[None]:
    """Trace without computing convolutions: minutes become seconds, the graph is the same."""
    real = torch.nn.functional.conv2d

    def pair(value: Any) -> tuple[int, int]:
        return (value, value) if isinstance(value, int) else tuple(value)

    def conv2d(
        x: Any, w: Any, b: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
    ) -> Any:
        if isinstance(padding, str):
            return real(x, w, b, stride, padding, dilation, groups)
        return _Idle.apply(x, w, b, pair(stride), pair(padding), pair(dilation), groups)

    with patch.object(torch.nn.functional, "conv2d", conv2d):
        yield
