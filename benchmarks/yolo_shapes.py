"""YOLOv5, v8, 11 and 12 as shapes: random weights, the structure of the published files. They are made to be counted,
never to detect.

Heads end where the vendor's conversions end: one channels-last tensor a scale and a branch, no decoding.
Written from the public descriptions (github.com/ultralytics/ultralytics, cfg/models; github.com/ultralytics/yolov5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import torch
from torch import nn


class Task(StrEnum):
    """What a YOLO is asked for, in the words of the table of latencies."""

    DETECT = "detection"
    SEGMENT = "instance-segmentation"
    POSE = "pose"
    OBB = "obb-detection"
    CLASSIFY = "classification"


_CLASSES = {Task.POSE: 1, Task.OBB: 15, Task.CLASSIFY: 1000}
_EXTRA = {Task.SEGMENT: 32, Task.POSE: 51, Task.OBB: 1}
"""Channels of a scale's third branch: mask coefficients, key points, the angle."""


class Conv(nn.Sequential):  # type: ignore[misc]
    """Convolution, batch norm, SiLU."""

    def __init__(self, a: int, b: int, k: int = 1, s: int = 1, g: int = 1, act: nn.Module | None = None, p: int = -1):
        conv = nn.Conv2d(a, b, k, s, k // 2 if p < 0 else p, groups=g, bias=False)
        super().__init__(conv, nn.BatchNorm2d(b), nn.SiLU() if act is None else act)


class Bottleneck(nn.Module):  # type: ignore[misc]
    """Two convolutions, around which the input may go."""

    def __init__(self, c: int, add: bool, k: tuple[int, int] = (3, 3), e: float = 1.0):
        super().__init__()
        self.body = nn.Sequential(Conv(c, int(c * e), k[0]), Conv(int(c * e), c, k[1]))
        self.add = add

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.add else self.body(x)


class C3(nn.Module):  # type: ignore[misc]
    """Two branches, of which one goes through bottlenecks (v5; inside 11 and 12, C3k)."""

    def __init__(self, a: int, b: int, n: int, add: bool = True, k: tuple[int, int] = (1, 3)):
        super().__init__()
        c = b // 2
        self.one, self.two, self.out = Conv(a, c), Conv(a, c), Conv(2 * c, b)
        self.body = nn.Sequential(*(Bottleneck(c, add, k) for _ in range(n)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cat((self.body(self.one(x)), self.two(x)), 1))


class C2f(nn.Module):  # type: ignore[misc]
    """Every bottleneck's output goes on to the last convolution (v8; with other blocks, C3k2 of 11)."""

    def __init__(self, a: int, b: int, blocks: Callable[[int], list[nn.Module]], e: float = 0.5):
        super().__init__()
        c = int(b * e)
        self.first = Conv(a, 2 * c)
        self.blocks = nn.ModuleList(blocks(c))
        self.out = Conv((2 + len(self.blocks)) * c, b)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.out(torch.cat(parts, 1))


def c2f(a: int, b: int, n: int, add: bool = True) -> C2f:
    """The block of v8."""
    return C2f(a, b, lambda c: [Bottleneck(c, add) for _ in range(n)])


def c3k2(a: int, b: int, n: int, deep: bool, e: float = 0.5) -> C2f:
    """The block of 11: each part a C3 of two bottlenecks where ``deep``."""
    return C2f(a, b, lambda c: [C3(c, c, 2, k=(3, 3)) if deep else Bottleneck(c, True, e=0.5) for _ in range(n)], e)


class CSP(nn.Module):  # type: ignore[misc]
    """The block of v5's releases 1 and 2: bare convolutions, one norm over both branches."""

    def __init__(self, a: int, b: int, n: int, add: bool = True):
        super().__init__()
        c, act = b // 2, nn.LeakyReLU(0.1)
        self.one, self.out = Conv(a, c, act=act), Conv(2 * c, b, act=act)
        self.body = nn.Sequential(*(Bottleneck(c, add, (1, 3)) for _ in range(n)), nn.Conv2d(c, c, 1, bias=False))
        self.two = nn.Conv2d(a, c, 1, bias=False)
        self.both = nn.Sequential(nn.BatchNorm2d(2 * c), act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.both(torch.cat((self.body(self.one(x)), self.two(x)), 1)))


class SPPF(nn.Module):  # type: ignore[misc]
    """Three poolings, one after another, side by side."""

    def __init__(self, a: int, b: int):
        super().__init__()
        self.first, self.pool, self.out = Conv(a, a // 2), nn.MaxPool2d(5, 1, 2), Conv(2 * a, b)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.out(torch.cat(parts, 1))


class Attention(nn.Module):  # type: ignore[misc]
    """Attention over positions; the values also go through a depthwise convolution (11)."""

    def __init__(self, c: int, heads: int, key: float, kernel: int):
        super().__init__()
        self.heads, self.head = heads, c // heads
        self.key = int(self.head * key)
        idle = nn.Identity()
        self.qkv = Conv(c, c + 2 * self.key * heads, act=idle)
        self.place = Conv(c, c, kernel, g=c, act=idle)
        self.out = Conv(c, c, act=idle)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, h, w = (int(n) for n in x.shape)
        given = self.qkv(x).view(b, self.heads, 2 * self.key + self.head, h * w)
        q, k, v = given.split([self.key, self.key, self.head], 2)
        weights = ((q.transpose(2, 3) @ k) * self.key**-0.5).softmax(-1)
        mixed = (v @ weights.transpose(2, 3)).view(b, c, h, w)
        return self.out(mixed + self.place(v.reshape(b, c, h, w)))


class AreaAttention(Attention):
    """The same over each of ``area`` strips by itself, in the layout of 12."""

    def __init__(self, c: int, heads: int, area: int):
        super().__init__(c, heads, 1.0, 7)
        self.area = area

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, h, w = (int(n) for n in x.shape)
        n = h * w // self.area
        given = self.qkv(x).flatten(2).transpose(1, 2).reshape(b * self.area, n, 3 * c)
        q, k, v = given.view(-1, n, self.heads, 3 * self.head).permute(0, 2, 3, 1).split([self.head] * 3, 2)
        weights = ((q.transpose(2, 3) @ k) * self.head**-0.5).softmax(-1)
        mixed, values = (
            t.permute(0, 3, 1, 2).reshape(b, h, w, c).permute(0, 3, 1, 2).contiguous()
            for t in (v @ weights.transpose(2, 3), v)
        )
        return self.out(mixed + self.place(values))


class Attended(nn.Module):  # type: ignore[misc]
    """Attention, then two convolutions, each with its input added."""

    def __init__(self, c: int, attention: Attention, ratio: float):
        super().__init__()
        self.attention = attention
        self.mlp = nn.Sequential(Conv(c, int(c * ratio)), Conv(int(c * ratio), c, act=nn.Identity()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


class C2PSA(nn.Module):  # type: ignore[misc]
    """Half of the channels are attended to (11)."""

    def __init__(self, c: int, n: int):
        super().__init__()
        half = c // 2
        self.first, self.out = Conv(c, c), Conv(c, c)
        self.body = nn.Sequential(*(Attended(half, Attention(half, max(half // 64, 1), 0.5, 3), 2.0) for _ in range(n)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.first(x).chunk(2, 1)
        return self.out(torch.cat((a, self.body(b)), 1))


class A2C2f(nn.Module):  # type: ignore[misc]
    """Attention over areas, or C3 blocks, each of whose outputs goes on to the last convolution (12)."""

    def __init__(self, a: int, b: int, n: int, area: int | None, ratio: float):
        super().__init__()
        c = b // 2
        self.first, self.out = Conv(a, c), Conv((1 + n) * c, b)
        self.body = nn.ModuleList(
            nn.Sequential(*(Attended(c, AreaAttention(c, c // 32, area), ratio) for _ in range(2)))
            if area
            else C3(c, c, 2, k=(3, 3))
            for _ in range(n)
        )
        self.scale = nn.Parameter(torch.ones(b)) if area and a == b and ratio < 2 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [self.first(x)]
        for block in self.body:
            parts.append(block(parts[-1]))
        made: torch.Tensor = self.out(torch.cat(parts, 1))
        return made if self.scale is None else x + self.scale.view(1, -1, 1, 1) * made


class Focus(nn.Module):  # type: ignore[misc]
    """Four pixels to one, then a convolution (v5's releases before 6)."""

    def __init__(self, b: int):
        super().__init__()
        self.conv = Conv(12, b, 3, act=nn.LeakyReLU(0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        quarters = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return self.conv(torch.cat(quarters, 1))


class Head(nn.Module):  # type: ignore[misc]
    """The branches of each scale, channels last: classes, boxes, and what the task adds."""

    def __init__(self, widths: Sequence[int], task: Task, separable: bool):
        super().__init__()
        classes, extra = _CLASSES.get(task, 80), _EXTRA.get(task)
        first = widths[0]
        box, score = max(16, first // 4, 64), max(first, min(classes, 100))
        self.branches = nn.ModuleList()
        for c in widths:
            self.branches.append(nn.Sequential(Conv(c, box, 3), Conv(box, box, 3), nn.Conv2d(box, 64, 1)))
            if separable:
                deep: list[nn.Module] = [Conv(c, c, 3, g=c), Conv(c, score), Conv(score, score, 3, g=score)]
                deep.append(Conv(score, score))
            else:
                deep = [Conv(c, score, 3), Conv(score, score, 3)]
            self.branches.append(nn.Sequential(*deep, nn.Conv2d(score, classes, 1)))
            if extra is not None:
                mid = max(first // 4, extra)
                self.branches.append(nn.Sequential(Conv(c, mid, 3), Conv(mid, mid, 3), nn.Conv2d(mid, extra, 1)))
        self.each = len(self.branches) // len(widths)
        proto = first
        self.proto = (
            nn.Sequential(
                Conv(first, proto, 3), nn.ConvTranspose2d(proto, proto, 2, 2), Conv(proto, proto, 3), Conv(proto, 32)
            )
            if task is Task.SEGMENT
            else None
        )

    def forward(self, *scales: torch.Tensor) -> list[torch.Tensor]:
        made = [
            branch(x).permute(0, 2, 3, 1)
            for i, x in enumerate(scales)
            for branch in self.branches[i * self.each : (i + 1) * self.each]
        ]
        return made if self.proto is None else [*made, self.proto(scales[0]).permute(0, 2, 3, 1)]


class Anchors(nn.Module):  # type: ignore[misc]
    """v5's own head: one convolution a scale."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(c, 255, 1) for c in widths)

    def forward(self, *scales: torch.Tensor) -> list[torch.Tensor]:
        return [branch(x).permute(0, 2, 3, 1) for branch, x in zip(self.branches, scales, strict=True)]


class Classify(nn.Module):  # type: ignore[misc]
    """Pooled, then one linear layer."""

    def __init__(self, c: int):
        super().__init__()
        self.conv, self.linear = Conv(c, 1280), nn.Linear(1280, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.conv(x).mean((2, 3)))


class Net(nn.Module):  # type: ignore[misc]
    """A backbone of three scales, a neck up and down, a head."""

    def __init__(self, parts: dict[str, Any]):
        super().__init__()
        self.p3, self.p4, self.p5 = parts["p3"], parts["p4"], parts["p5"]
        self.neck = nn.ModuleDict(parts["neck"])
        self.head = parts["head"]
        self.up = nn.Upsample(scale_factor=2)

    def forward(self, x: torch.Tensor) -> Any:
        p3 = self.p3(x)
        p4 = self.p4(p3)
        p5 = self.p5(p4)
        if not self.neck:
            return self.head(p5)
        n = self.neck
        top = n["top"](p5) if "top" in n else p5
        up4 = n["up4"](torch.cat((self.up(top), p4), 1))
        mid = n["mid"](up4) if "mid" in n else up4
        up3 = n["up3"](torch.cat((self.up(mid), p3), 1))
        down4 = n["down4"](torch.cat((n["to4"](up3), mid), 1))
        down5 = n["down5"](torch.cat((n["to5"](down4), top), 1))
        return self.head(up3, down4, down5)


_SCALES: dict[str, dict[str, tuple[float, float, int]]] = {
    "v5": {"n": (1 / 3, 0.25, 1024), "s": (1 / 3, 0.5, 1024), "m": (2 / 3, 0.75, 1024), "l": (1, 1, 1024)}
    | {"x": (4 / 3, 1.25, 1024)},
    "v8": {"n": (1 / 3, 0.25, 1024), "s": (1 / 3, 0.5, 1024), "m": (2 / 3, 0.75, 768), "l": (1, 1, 512)}
    | {"x": (1, 1.25, 512)},
    "11": {"n": (0.5, 0.25, 1024), "s": (0.5, 0.5, 1024), "m": (0.5, 1, 512), "l": (1, 1, 512), "x": (1, 1.5, 512)},
}
_SCALES["12"] = _SCALES["11"]


def yolo(family: str, scale: str, task: Task = Task.DETECT, *, release: int = 8) -> nn.Module:
    """Return a network by its names: ``yolo("11", "m", Task.POSE)``.

    Args:
        family: "v5", "v8", "11" or "12".
        release: of v5: 2 (bare convolutions, LeakyReLU), 7 (anchors) or 8 (v5u, the head of v8).
    """
    depth, width, most = _SCALES[family][scale]
    if task is Task.CLASSIFY:
        most = 1024 if family == "v8" else most

    def wide(c: int) -> int:
        return -(-int(min(c, most) * width) // 8) * 8

    def deep(n: int) -> int:
        return max(round(n * depth), 1)

    make = {"v5": _v5, "v8": _v8, "11": _11, "12": _12}[family]
    parts = make(wide, deep, scale, release)
    widths = [wide(256), wide(512), wide(1024)]
    if task is Task.CLASSIFY:
        parts |= {"neck": {}, "head": Classify(wide(1024))}
        parts["p5"] = nn.Sequential(*(m for m in parts["p5"] if not isinstance(m, SPPF)))
    elif family == "v5" and release < 8:
        parts["head"] = Anchors(widths)
    else:
        parts["head"] = Head(widths, task, separable=family in ("11", "12"))
    return Net(parts).eval()


Count = Callable[[int], int]


def _v5(w: Count, d: Count, scale: str, release: int) -> dict[str, Any]:
    act = nn.LeakyReLU(0.1) if release < 7 else nn.SiLU()
    block: Any = CSP if release < 7 else C3

    def conv(a: int, b: int, k: int = 3, s: int = 2) -> Conv:
        return Conv(w(a), w(b), k, s, act=act)

    def c3(a: int, b: int, n: int, add: bool = False) -> nn.Module:
        made: nn.Module = block(w(a), w(b), d(n), add)
        return made

    stem = Focus(w(64)) if release < 7 else Conv(3, w(64), 6, 2, p=2)
    second = 9 if release < 7 else 6
    last: list[nn.Module] = [SPPF(w(1024), w(1024))]
    after = c3(1024, 1024, 3, release >= 7)
    return {
        "p3": nn.Sequential(stem, conv(64, 128), c3(128, 128, 3, True), conv(128, 256), c3(256, 256, second, True)),
        "p4": nn.Sequential(conv(256, 512), c3(512, 512, 9, True)),
        "p5": nn.Sequential(conv(512, 1024), *([*last, after] if release < 7 else [after, *last])),
        "neck": {
            "top": conv(1024, 512, 1, 1),
            "up4": c3(1024, 512, 3),
            "mid": conv(512, 256, 1, 1),
            "up3": c3(512, 256, 3),
            "to4": conv(256, 256),
            "down4": c3(512, 512, 3),
            "to5": conv(512, 512),
            "down5": c3(1024, 1024, 3),
        },
    }


def _backbone(w: Count, blocks: Sequence[nn.Module], last: Sequence[nn.Module], c: Sequence[int]) -> dict[str, Any]:
    stem = [Conv(3, w(64), 3, 2), Conv(w(64), w(128), 3, 2), blocks[0]]
    return {
        "p3": nn.Sequential(*stem, Conv(c[0], w(256), 3, 2), blocks[1]),
        "p4": nn.Sequential(Conv(c[1], w(512), 3, 2), blocks[2]),
        "p5": nn.Sequential(Conv(w(512), w(1024), 3, 2), blocks[3], *last),
    }


def _v8(w: Count, d: Count, scale: str, release: int) -> dict[str, Any]:
    blocks = [
        c2f(w(128), w(128), d(3)),
        c2f(w(256), w(256), d(6)),
        c2f(w(512), w(512), d(6)),
        c2f(w(1024), w(1024), d(3)),
    ]
    return _backbone(w, blocks, [SPPF(w(1024), w(1024))], (w(128), w(256))) | {
        "neck": {
            "up4": c2f(w(1024) + w(512), w(512), d(3), False),
            "up3": c2f(w(512) + w(256), w(256), d(3), False),
            "to4": Conv(w(256), w(256), 3, 2),
            "down4": c2f(w(256) + w(512), w(512), d(3), False),
            "to5": Conv(w(512), w(512), 3, 2),
            "down5": c2f(w(512) + w(1024), w(1024), d(3), False),
        }
    }


def _11(w: Count, d: Count, scale: str, release: int) -> dict[str, Any]:
    big = scale in "mlx"
    blocks = [
        c3k2(w(128), w(256), d(2), big, 0.25),
        c3k2(w(256), w(512), d(2), big, 0.25),
        c3k2(w(512), w(512), d(2), True),
        c3k2(w(1024), w(1024), d(2), True),
    ]
    last = [SPPF(w(1024), w(1024)), C2PSA(w(1024), d(2))]
    return _backbone(w, blocks, last, (w(256), w(512))) | {
        "neck": {
            "up4": c3k2(w(1024) + w(512), w(512), d(2), big),
            "up3": c3k2(w(512) + w(512), w(256), d(2), big),
            "to4": Conv(w(256), w(256), 3, 2),
            "down4": c3k2(w(256) + w(512), w(512), d(2), big),
            "to5": Conv(w(512), w(512), 3, 2),
            "down5": c3k2(w(512) + w(1024), w(1024), d(2), True),
        }
    }


def _12(w: Count, d: Count, scale: str, release: int) -> dict[str, Any]:
    big, ratio = scale in "mlx", 1.2 if scale in "lx" else 2.0
    blocks = [
        c3k2(w(128), w(256), d(2), big, 0.25),
        c3k2(w(256), w(512), d(2), big, 0.25),
        A2C2f(w(512), w(512), d(4), 4, ratio),
        A2C2f(w(1024), w(1024), d(4), 1, ratio),
    ]
    return _backbone(w, blocks, [], (w(256), w(512))) | {
        "neck": {
            "up4": A2C2f(w(1024) + w(512), w(512), d(2), None, ratio),
            "up3": A2C2f(w(512) + w(512), w(256), d(2), None, ratio),
            "to4": Conv(w(256), w(256), 3, 2),
            "down4": A2C2f(w(256) + w(512), w(512), d(2), None, ratio),
            "to5": Conv(w(512), w(512), 3, 2),
            "down5": c3k2(w(512) + w(1024), w(1024), d(2), True),
        }
    }
