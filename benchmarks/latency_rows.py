"""The table of published latencies: its rows, and the family that a published name is of. Imports nothing heavy."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_FAMILIES = {
    "ConvNeXt": r"convnext_\w+",
    "EdgeNeXt": r"edgenext_\w+",
    "EfficientFormer": r"efficientformer_\w+",
    "EfficientFormerV2": r"efficientformerv2_\w+",
    "EfficientNet": r"efficientnet_b\d",
    "EfficientViT": r"efficientvit_msra_m\d",
    "FastViT": r"fastvit_\w+",
    "FasterNet": r"fasternet_\w+",
    "GoogLeNet": r"googlenet",
    "MobileNet": r"mobilenetv[234]\w*",
    "MobileOne": r"mobileone_\w+",
    "RepGhost": r"repghost(net_\d+)?",
    "RepVGG": r"repvgg_\w+",
    "RepViT": r"repvit(_m\w+)?",
    "ResNet": r"resnet\d+",
    "ResNeXt": r"resnext\w+",
    "YOLOv5": r"yolov5[nsmlx](u|_v2\.0|_v7\.0)",
    "YOLOv8": r"yolov8[nsmlx](-\w+)?",
    "YOLO11": r"yolo11[nsmlx](-\w+)?",
    "YOLO12": r"yolo12[nsmlx](-\w+)?",
}
"""Family to its published names, in lower case: those of which there is a graph."""


@dataclass(frozen=True)
class Published:
    """One row with a latency, single stream."""

    board: str
    model: str
    task: str
    pixels: int
    published_ms: float

    @property
    def key(self) -> str:
        """What the network's counts for this board are filed under."""
        return f"{self.board} {self.model} {self.task} {self.pixels}"


def published(path: Path) -> tuple[list[Published], Counter[str]]:
    """Return the rows with a latency, and how many of each board have none."""
    rows, without = [], Counter[str]()
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if not row["latency_ms_1thread"]:
                without[row["board"]] += 1
                continue
            height = int(row["input_hw"].split("x")[0])
            rows.append(Published(row["board"], row["model"], row["task"], height, float(row["latency_ms_1thread"])))
    return rows, without


def family_of(model: str) -> str | None:
    """Return the family of a published name; None where there is no graph for it."""
    return next((family for family, names in _FAMILIES.items() if re.fullmatch(names, model.lower())), None)
