"""fetch/evaluation and fetch/calibration: encoded images become the pixels that a board is fed."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bpudeploy.errors import StageError
from bpudeploy.events import Progress
from bpudeploy.stage import Artifact, Kind, Stage, Work


class Subset(StrEnum):
    """Which of a dataset's two sets."""

    EVALUATION = "evaluation"
    CALIBRATION = "calibration"


@dataclass(frozen=True)
class SamplesOptions:
    subset: Subset

    def canonical(self) -> Mapping[str, Any]:
        return asdict(self)


def make_samples(work: Work, options: SamplesOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Decode, resize and crop one set with timm's own transform, stopping before normalisation.

    The SAMPLES file holds ``pixels`` uint8 (N, H, W, 3) RGB and ``labels`` int64 (N,); its metadata
    key ``samples`` lists file and sha256 of each image. Memory is one image, whatever N is.

    Raises:
        StageError: an image cannot be decoded; it is named.
    """
    from PIL import Image, UnidentifiedImageError

    from bpudeploy.stages.timm_models import Preprocess, pixel_transform

    dataset, preprocess = inputs
    resolved = Preprocess.read(preprocess.path)
    transform = pixel_transform(resolved)
    out = work.dir / "samples.safetensors"
    step = f"fetch/{options.subset}"
    with zipfile.ZipFile(dataset.path) as archive, out.open("wb") as target:
        index = json.loads(archive.read("index.json"))
        samples = index[options.subset]
        target.write(_header(samples, index["classes"], resolved.size))
        for done, sample in enumerate(samples, 1):
            try:
                with Image.open(io.BytesIO(archive.read(f"images/{sample['sha256']}"))) as image:
                    target.write(transform(image).tobytes())
            except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
                raise StageError(
                    f"cannot decode {sample['file']}: {error}", hint="remove or repair the image"
                ) from error
            work.emit(Progress(step, done, len(samples), "images"))
    return (out,)


def _header(samples: list[dict[str, Any]], classes: list[str], size: tuple[int, int]) -> bytes:
    """Return a safetensors header, with the labels (whose bytes come first) behind it.

    Format: 8 bytes little-endian length, JSON, then the tensors' bytes
    (https://huggingface.co/docs/safetensors/index#format).
    """
    import numpy as np

    n, labels = len(samples), np.array([s["label"] for s in samples], dtype="<i8").tobytes()
    names = [{"file": s["file"], "sha256": s["sha256"]} for s in samples]
    shape = [n, *size, 3]
    layout = {
        "__metadata__": {"samples": json.dumps(names), "classes": json.dumps(classes)},
        "labels": {"dtype": "I64", "shape": [n], "data_offsets": [0, len(labels)]},
        "pixels": {"dtype": "U8", "shape": shape, "data_offsets": [len(labels), len(labels) + int(np.prod(shape))]},
    }
    text = json.dumps(layout, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + labels


SAMPLES = Stage(
    "samples",
    version=1,
    takes=(Kind.DATASET, Kind.PREPROCESS),
    gives=(Kind.SAMPLES,),
    run=make_samples,
    tools=("timm", "torchvision", "pillow"),
)
