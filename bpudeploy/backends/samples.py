"""The inputs of a network: images of a SAMPLES artifact, mean and scale of a PREPROCESS artifact."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter

from bpudeploy.errors import StageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Normalisation(BaseModel):
    """The part of a PREPROCESS artifact that applies after resize and crop; other keys are ignored.

    ``size`` is (H, W) in pixels; ``mean`` and ``std`` are per RGB channel in 0..1 units.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a PREPROCESS artifact."""
        return cls.model_validate_json(path.read_bytes())

    @property
    def scale(self) -> tuple[float, ...]:
        """Per channel: the factor for a pixel of 0..255."""
        return tuple(1.0 / (255.0 * std) for std in self.std)

    @property
    def shift(self) -> tuple[float, ...]:
        """Per channel: the summand after the scale."""
        return tuple(-mean / std for mean, std in zip(self.mean, self.std, strict=True))

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return uint8 RGB (N, H, W, 3) as normalised float32 (N, 3, H, W)."""
        import numpy as np

        scale, shift = np.array(self.scale, np.float32), np.array(self.shift, np.float32)
        return np.ascontiguousarray((pixels.astype(np.float32) * scale + shift).transpose(0, 3, 1, 2))


class ImageDefect(StrEnum):
    """Defects of calibration images that can be decoded."""

    FEW = "few"  # the set is small
    REPEATED = "repeated"  # two files, the same pixels
    FLAT = "flat"  # one colour
    SMALL = "small"  # smaller than the network's input
    LONG = "long"  # an aspect ratio far from the network's input
    FRAMES = "frames"  # an animation, or several pages
    TRANSPARENT = "transparent"
    CMYK = "cmyk"
    SHALLOW = "shallow"  # 16 bits per channel with the upper ones unused


class CalibrationFinding(BaseModel):
    """A defect of calibration images: the files that have it (none: the whole set), what it is, why it matters."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    flaw: ImageDefect
    files: tuple[str, ...]
    what: str
    why: str

    def __str__(self) -> str:
        more = len(self.files) - _NAMED
        names = ", ".join(self.files[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        return f"{names or 'calibration set'}: {self.what}; {self.why}"


_NAMED = 3
_FINDINGS = TypeAdapter(tuple[CalibrationFinding, ...])


def write_findings(findings: tuple[CalibrationFinding, ...]) -> str:
    """Return the text of a SAMPLES artifact's metadata key ``findings``."""
    return _FINDINGS.dump_json(findings).decode()


def read_findings(path: Path) -> tuple[CalibrationFinding, ...]:
    """Return the findings in a SAMPLES artifact without reading its pixels."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return _FINDINGS.validate_json((file.metadata() or {}).get("findings", "[]"))


@dataclass(frozen=True, eq=False)
class Samples:
    """Images and their labels: ``pixels`` uint8 RGB (N, H, W, 3), ``labels`` int64 (N,), class names by label."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Samples:
        """Read a SAMPLES artifact.

        Raises:
            StageError: it has other content.
        """
        from safetensors import safe_open
        from safetensors.numpy import load_file

        tensors = load_file(path)
        with safe_open(path, framework="numpy") as file:
            classes = json.loads((file.metadata() or {}).get("classes", "[]"))
        pixels, labels = tensors.get("pixels"), tensors.get("labels")
        if pixels is None or labels is None or pixels.dtype != "uint8" or pixels.ndim != 4 or pixels.shape[3] != 3:
            raise StageError(f"{path} does not contain uint8 pixels (N, H, W, 3) and labels", hint="run fetch again")
        if not len(pixels) or len(pixels) != len(labels):
            raise StageError(f"{path} contains {len(pixels)} images and {len(labels)} labels", hint="run fetch again")
        return cls(pixels.astype("uint8", copy=False), labels.astype("int64"), tuple(classes))

    def __len__(self) -> int:
        return len(self.pixels)


def spread(count: int, chosen: int) -> NDArray[np.intp]:
    """Return ``chosen`` indices among ``count``, or all if there are fewer, evenly spread: those of golden images."""
    import numpy as np

    return np.unique(np.linspace(0, count - 1, chosen).astype(int))


@dataclass(frozen=True, eq=False)
class Scores:
    """The outputs of a network: ``logits`` float32 (N, classes) for ``labels`` int64 (N,)."""

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]

    @classmethod
    def read(cls, path: Path) -> Scores:
        """Read a SCORES artifact."""
        from safetensors.numpy import load_file

        tensors = load_file(path)
        return cls(tensors["logits"].astype("float32"), tensors["labels"].astype("int64"))

    def write(self, path: Path) -> Path:
        """Write a SCORES artifact and return its path."""
        from safetensors.numpy import save_file

        save_file({"logits": self.logits.astype("float32"), "labels": self.labels.astype("int64")}, path)
        return path

    @property
    def top1(self) -> float:
        """The fraction of images whose largest logit is that of the label."""
        return float((self.logits.argmax(axis=1) == self.labels).mean())
