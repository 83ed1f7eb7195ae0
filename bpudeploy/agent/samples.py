"""The images a board is fed: a safetensors file, mapped and not read, and believed only where it fits together."""

from __future__ import annotations

import json
import math
import os
import struct
from typing import Any, Dict, Tuple

from .drivers.base import Refused

_MOST_HEADER = 100_000_000


def read_pixels(path: str) -> Any:
    """Map ``pixels`` uint8 (N, H, W, 3) of a file that holds these and ``labels`` int64 (N,); nothing is copied.

    Format: https://huggingface.co/docs/safetensors/index#format

    Raises:
        Refused: it is not such a file, or not all of it.
    """
    try:
        return _mapped(path)
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror}", "send the samples again") from error
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise Refused(f"{path} is no samples file: {error}", "send the samples again") from error


def _mapped(path: str) -> Any:
    import numpy

    size = os.path.getsize(path)
    with open(path, "rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if not 0 < length <= min(size - 8, _MOST_HEADER):
            raise ValueError("its header's length is impossible")
        header = json.loads(stream.read(length).decode())
    pixels, at, end = _tensor(header, "pixels", "U8", 4, 1)
    labels, *of_labels = _tensor(header, "labels", "I64", 1, 8)
    (first, middle), (again, last) = sorted([(at, end), (of_labels[0], of_labels[1])])
    if (first, middle, last) != (0, again, size - 8 - length):
        raise ValueError("its tensors do not fill it exactly")
    if pixels[0] != labels[0] or pixels[3] != 3 or not all(pixels):
        raise ValueError(f"pixels {pixels} and labels {labels} do not match")
    return numpy.memmap(path, numpy.uint8, "r", 8 + length + at, pixels)


def _tensor(header: Dict[str, Any], name: str, code: str, rank: int, width: int) -> Tuple[Tuple[int, ...], int, int]:
    """Return shape, begin and end."""
    entry = header[name]
    shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
    if any(type(whole) is not int or whole < 0 for whole in (*shape, begin, end)):
        raise ValueError(f"{name} has a size that is no number")
    if entry["dtype"] != code or len(shape) != rank or end - begin != math.prod(shape) * width:
        raise ValueError(f"{name} is not what it should be")
    return shape, begin, end


def frame(pixels: Any, first: int, batch: int) -> Any:
    """Return a copy of ``batch`` images from ``first`` on, beginning again at the end."""
    return pixels[[(first + i) % len(pixels) for i in range(batch)]]
