"""Small CNNs, really trained, for measuring what INT8 costs ResNet-, MobileNet- and EfficientNet-like networks.

    apt-get install dataset-fashion-mnist                    Debian's package of the set, 31 MB, MIT licence
    .venv/bin/python -m benchmarks.small_nets train          about 5 minutes a network on one free core
    .venv/bin/python -m benchmarks.small_nets recipes        a recipe for each trained network, validated
    .venv/bin/bpudeploy run .bpudeploy/small_nets/mobilenetv2_050.yaml --until quantize

Fashion-MNIST (Xiao et al., arXiv 1708.07747): 28 x 28 grey pictures of ten kinds of clothes, here padded with black to
32 x 32, as RGB. The networks are timm's own, unchanged, trained from random weights on the 60,000 training pictures
with AdamW and a one-cycle rate, flips and shifts; nothing in it is meant to make quantization easier or harder. Batch
norm, weight decay and the rest are the defaults. The first 3,000 pictures of the official test set, which no training
saw, become ``test/``: recipes draw evaluation and calibration from it.

Networks of stride 32 with depthwise kernels are fed enlarged pictures (bilinear, 48 or 64 pixels). At 32 pixels their
last maps are 2 x 2 and 1 x 1: the outer taps of a kernel then meet padding only, get no gradient and stay as they were
drawn, yet take part in the scale of the INT8 weights. ``train`` prints how many taps of depthwise kernels are so.

A seed fixes pictures, order and initial weights; another number of threads or another CPU gives other last digits.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from bpudeploy.stages.timm_models import create

SOURCE = Path("/usr/share/datasets/fashion-mnist")
CACHE = Path(__file__).parents[1] / ".bpudeploy" / "small_nets"
CLASSES = ("tshirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle_boot")
BORDER, BATCH = 2, 64
MEAN, STD = 0.2860, 0.3530  # of the 60,000 training pictures before padding
TEST_IMAGES, EVALUATION, CALIBRATION = 3000, 2000, 64

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Net:
    """A timm architecture, the side of its input in pixels, and its training: steps of 64 pictures, peak rate."""

    architecture: str
    size: int
    steps: int
    rate: float


NETS = (
    Net("resnet10t", 32, 2000, 2e-3),
    Net("mobilenetv2_050", 40, 4500, 2e-2),
    Net("mobilenetv3_small_050", 68, 3000, 1e-2),
    Net("efficientnet_lite0", 40, 4000, 1e-2),
    Net("repvgg_a0", 32, 1500, 2e-3),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("train", "recipes"))
    parser.add_argument("nets", nargs="*", help="some of: " + ", ".join(n.architecture for n in NETS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    unknown = set(args.nets) - {n.architecture for n in NETS}
    if unknown:
        parser.error(f"no such network: {', '.join(sorted(unknown))}")
    chosen = [n for n in NETS if not args.nets or n.architecture in args.nets]
    torch.set_num_threads(args.threads)
    if args.verb == "train":
        train_all(chosen, args.seed)
    else:
        write_recipes(chosen)


# ---- pictures


def read_split(split: str) -> tuple[Bytes, Bytes]:
    """Return a split (``train`` or ``t10k``) padded to 32 x 32, uint8 (N, 32, 32), and its labels (N,).

    The format is IDX (http://yann.lecun.com/exdb/mnist): a header of 16 bytes for images, 8 for labels.
    """
    if not SOURCE.is_dir():
        raise SystemExit(f"there is no {SOURCE}: apt-get install dataset-fashion-mnist")
    images, labels = (gzip.decompress((SOURCE / f"{split}-{n}-ubyte.gz").read_bytes()) for n in _KINDS)
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
    padded = np.pad(pixels, ((0, 0), (BORDER, BORDER), (BORDER, BORDER)))
    return padded, np.frombuffer(labels, np.uint8, offset=8)


_KINDS = ("images-idx3", "labels-idx1")


def unpack_test() -> Path:
    """Write the held-out pictures as RGB PNGs, ``test/CLASS/NNNNN.png``, and return the folder.

    Class folders start with the label, so that their sorted order is the label order.
    """
    folder = CACHE / "test"
    if folder.is_dir():
        return folder
    made = CACHE / "test.part"
    shutil.rmtree(made, ignore_errors=True)
    for label, name in enumerate(CLASSES):
        (made / f"{label}_{name}").mkdir(parents=True)
    pixels, labels = read_split("t10k")
    for i in range(TEST_IMAGES):
        file = made / f"{labels[i]}_{CLASSES[labels[i]]}" / f"{i:05d}.png"
        Image.fromarray(pixels[i]).convert("RGB").save(file)
    return made.rename(folder)


# ---- training


def train_all(nets: Sequence[Net], seed: int) -> None:
    """Train each network, save its weights and print one line of Markdown."""
    unpack_test()
    pixels, labels = (torch.from_numpy(a.copy()) for a in read_split("train"))
    held_out, truth = (torch.from_numpy(a.copy()) for a in read_split("t10k"))
    print("| network | pixels | M parameters | steps | s | CPU s | top-1, 10,000 test | top-1, test/ | taps unused |")
    print("|---" * 9 + "|")
    for net in nets:
        torch.manual_seed(seed)
        began, used = time.monotonic(), time.process_time()
        model = create(net.architecture, image_size=net.size, num_classes=len(CLASSES))
        train(model, net, pixels, labels.long())
        wall, cpu = time.monotonic() - began, time.process_time() - used
        hits = predict(model, held_out, net.size) == truth
        top1 = 100 * hits.float().mean().item()
        ours = 100 * hits[:TEST_IMAGES].float().mean().item()
        save(model, net, seed, top1)
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        unused = unused_taps(model, net.size)
        print(
            f"| {net.architecture} | {net.size} | {millions:.2f} | {net.steps} | {wall:.0f} | {cpu:.0f} "
            f"| {top1:.2f} % | {ours:.2f} % | {unused} |",
            flush=True,
        )


def train(model: nn.Module, net: Net, pixels: torch.Tensor, labels: torch.Tensor) -> None:
    """Train ``model`` in place with AdamW and a one-cycle rate; it is left in eval mode."""
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=net.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, net.rate, total_steps=net.steps, pct_start=0.1)
    order = torch.randperm(len(labels))
    at = 0
    for step in range(net.steps):
        if at + BATCH > len(order):
            order, at = torch.randperm(len(labels)), 0
        chosen = order[at : at + BATCH]
        at += BATCH
        scores = model(prepare(augment(pixels[chosen]), net.size))
        loss = nn.functional.cross_entropy(scores, labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"{net.architecture} {step + 1}/{net.steps}: loss {loss.item():.3f}", file=sys.stderr, flush=True)
    model.eval()


def augment(pixels: torch.Tensor) -> torch.Tensor:
    """Flip half of the pictures (N, H, W) and shift each by up to 2 pixels each way, black coming in."""
    n, height, width = pixels.shape
    flipped = torch.where(torch.rand(n, 1, 1) < 0.5, pixels.flip(2), pixels)
    padded = nn.functional.pad(flipped, (BORDER,) * 4)
    down, right = torch.randint(0, 2 * BORDER + 1, (2, n, 1))
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def prepare(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Return uint8 (N, H, W) as float (N, 3, size, size), enlarged and normalised as the recipe says."""
    grey = pixels[:, None].float()
    if grey.shape[-1] != size:
        grey = nn.functional.interpolate(grey, size=size, mode="bilinear").round()  # what Pillow gives, to 1 of 255
    return ((grey / 255 - MEAN) / STD).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def predict(model: nn.Module, pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Return the class of each picture."""
    with torch.inference_mode():
        return torch.cat([model(prepare(part, size)).argmax(1) for part in pixels.split(500)])


def unused_taps(model: nn.Module, size: int) -> str:
    """Return how many taps of depthwise kernels meet nothing but padding, of how many: their gradient is 0."""
    kernels = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1]
    if not kernels:
        return "no depthwise"
    pixels = torch.randint(0, 256, (64, 32, 32), dtype=torch.uint8)
    model.zero_grad()
    model(prepare(pixels, size)).square().sum().backward()
    # a tap is unused when it has no gradient in any channel: one channel's may be dead for other reasons
    unused = sum(int((k.grad == 0).all(0).sum()) * len(k) for k in kernels)
    model.zero_grad()
    return f"{unused} of {sum(k.numel() for k in kernels)}"


def save(model: nn.Module, net: Net, seed: int, top1: float) -> None:
    """Write the state dict under timm's names; what it was trained as is in the file's metadata."""
    state = {name: tensor.contiguous().clone() for name, tensor in sorted(model.state_dict().items())}
    made = {
        "size": net.size,
        "steps": net.steps,
        "rate": net.rate,
        "batch": BATCH,
        "seed": seed,
        "test_top1": round(top1, 2),
    }
    save_file(state, CACHE / f"{net.architecture}.safetensors", metadata={"trained": json.dumps(made)})


# ---- recipes


def recipe(net: Net) -> dict[str, Any]:
    """Return a recipe that prepares pictures exactly as training did."""
    return {
        "name": net.architecture,
        "model": {
            "source": f"{net.architecture}.safetensors",
            "architecture": net.architecture,
            "image_size": net.size,
        },
        "dataset": {"source": "test", "format": "imagefolder", "evaluation": {"count": EVALUATION, "seed": 0}},
        "calibration": {"count": CALIBRATION, "seed": 1},
        "preprocess": {
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": [MEAN] * 3,
            "std": [STD] * 3,
        },
        "target": "local",
    }


def write_recipes(nets: Sequence[Net]) -> None:
    """Write a recipe beside each network's weights and have ``bpudeploy validate`` read it."""
    unpack_test()
    for net in nets:
        path = CACHE / f"{net.architecture}.yaml"
        path.write_text(yaml.safe_dump(recipe(net), sort_keys=False, default_flow_style=None))
        done = subprocess.run([sys.executable, "-m", "bpudeploy", "validate", str(path)], check=False)
        if done.returncode:
            raise SystemExit(f"{path} is not valid")


if __name__ == "__main__":
    main()
