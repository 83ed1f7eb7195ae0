"""fetch/evaluation and fetch/calibration: encoded images become the input pixels of a board."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpudeploy.backends.samples import CalibrationFinding, write_findings
from bpudeploy.errors import StageError
from bpudeploy.events import Note, Progress
from bpudeploy.stage import Artifact, Kind, Stage, StepContext
from bpudeploy.stages.calibration import findings, inspect_image
from bpudeploy.stages.decode import decode
from bpudeploy.stages.options import FieldOptions

if TYPE_CHECKING:
    from PIL import Image

    from bpudeploy.stages.timm_models import Preprocess


class Subset(StrEnum):
    """Which of a dataset's two sets."""

    EVALUATION = "evaluation"
    CALIBRATION = "calibration"


@dataclass(frozen=True)
class SamplesOptions(FieldOptions):
    subset: Subset


def make_samples(work: StepContext, options: SamplesOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Decode, resize and crop one set with timm's transform, without normalisation.

    The SAMPLES file contains ``pixels`` uint8 (N, H, W, 3) RGB and ``labels`` int64 (N,); its metadata ``samples``
    lists file and sha256 of each image, ``findings`` the problems of a calibration set (empty for evaluation). Only
    one image is in memory at a time.

    Raises:
        StageError: an image cannot be decoded, or would become too large; with the name of its file.
    """
    from bpudeploy.stages.timm_models import Preprocess, pixel_transform

    dataset, preprocess = inputs
    resolved = Preprocess.read(preprocess.path)
    transform = pixel_transform(resolved)
    out, body = work.dir / "samples.safetensors", work.dir / "pixels"
    step, inspected = f"fetch/{options.subset}", []
    with zipfile.ZipFile(dataset.path) as archive, body.open("wb") as target:
        index = json.loads(archive.read("index.json"))
        samples = index[options.subset]
        for done, sample in enumerate(samples, 1):
            decoded = decode(f"{options.subset} image {sample['file']}", archive.read(f"images/{sample['sha256']}"))
            _check_size(sample["file"], decoded.image, resolved)
            pixels = transform(decoded.image)
            target.write(pixels.tobytes())
            if options.subset is Subset.CALIBRATION:
                inspected.append(inspect_image(sample["file"], decoded, pixels))
            work.emit(Progress(step, done, len(samples), "images"))
    found = findings(inspected) if inspected else ()
    for finding in found:
        work.emit(Note(step, f"warning: {finding}"))
    with out.open("wb") as target, body.open("rb") as source:
        target.write(_header(samples, index["classes"], resolved.size, found))
        shutil.copyfileobj(source, target)
    body.unlink()
    return (out,)


def _check_size(file: str, image: Image.Image, resolved: Preprocess) -> None:
    """Refuse an image so elongated that resizing its shorter side would exhaust memory."""
    from PIL.Image import MAX_IMAGE_PIXELS

    ratio = max(image.size) / min(image.size)
    enlarged = ratio * resolved.size[0] * resolved.size[1] / resolved.crop_pct**2
    if resolved.crop_mode == "center" and MAX_IMAGE_PIXELS is not None and enlarged > 2 * MAX_IMAGE_PIXELS:
        raise StageError(
            f"cannot use {file}: {image.width}x{image.height} pixels, resized for the network's "
            f"{resolved.size[1]}x{resolved.size[0]}, would be {enlarged / 1e6:,.0f} million",
            hint="crop it to about the aspect ratio of the network's input, or remove it",
        )


def _header(
    samples: list[dict[str, Any]], classes: list[str], size: tuple[int, int], found: tuple[CalibrationFinding, ...]
) -> bytes:
    """Return a safetensors header and the labels, whose bytes come first.

    Format: 8 bytes little-endian length, JSON, tensor bytes (https://huggingface.co/docs/safetensors/index#format).
    """
    import numpy as np

    n, labels = len(samples), np.array([s["label"] for s in samples], dtype="<i8").tobytes()
    names = [{"file": s["file"], "sha256": s["sha256"]} for s in samples]
    shape = [n, *size, 3]
    layout = {
        "__metadata__": {
            "samples": json.dumps(names),
            "classes": json.dumps(classes),
            "findings": write_findings(found),
        },
        "labels": {"dtype": "I64", "shape": [n], "data_offsets": [0, len(labels)]},
        "pixels": {"dtype": "U8", "shape": shape, "data_offsets": [len(labels), len(labels) + int(np.prod(shape))]},
    }
    text = json.dumps(layout, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + labels


SAMPLES = Stage(
    "samples",
    version=2,
    takes=(Kind.DATASET, Kind.PREPROCESS),
    gives={"samples": Kind.SAMPLES},
    run=make_samples,
    tools=("timm", "torchvision", "pillow"),
)
