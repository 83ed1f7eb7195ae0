"""Input images: a memory-mapped safetensors file, validated before use."""

from __future__ import annotations

import json
import math
import os
import struct
from typing import Any, Dict, Tuple

from .drivers.base import Refused

_MAX_HEADER = 100_000_000


def read_pixels(path: str) -> Any:
    """Map ``pixels`` uint8 (N, H, W, 3) from a file with exactly these and ``labels`` int64 (N,); nothing is copied.

    Format: https://huggingface.co/docs/safetensors/index#format

    Raises:
        Refused: the file is something else, or incomplete.
    """
    import numpy

    try:
        size = os.path.getsize(path)
        with open(path, "rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if not 0 < length <= min(size - 8, _MAX_HEADER):
                raise ValueError("impossible header length")
            header = json.loads(stream.read(length).decode())
        pixels, *pixels_span = _tensor(header, "pixels", "U8", 4, 1)
        labels, *labels_span = _tensor(header, "labels", "I64", 1, 8)
        (start, middle), (again, end) = sorted([pixels_span, labels_span])
        if (start, middle, end) != (0, again, size - 8 - length):
            raise ValueError("the tensors do not fill the file exactly")
        if pixels[0] != labels[0] or pixels[3] != 3 or not all(pixels):
            raise ValueError(f"pixels {pixels} and labels {labels} do not match")
        return numpy.memmap(path, numpy.uint8, "r", 8 + length + pixels_span[0], pixels)
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror}", "send the samples again") from error
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise Refused(f"{path} is not a samples file: {error}", "send the samples again") from error


def _tensor(header: Dict[str, Any], name: str, code: str, rank: int, width: int) -> Tuple[Tuple[int, ...], int, int]:
    """Return shape, begin and end."""
    entry = header[name]
    shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
    if any(type(whole) is not int or whole < 0 for whole in (*shape, begin, end)):
        raise ValueError(f"{name} has an invalid size")
    if entry["dtype"] != code or len(shape) != rank or end - begin != math.prod(shape) * width:
        raise ValueError(f"{name} has the wrong dtype, rank or length")
    return shape, begin, end


def frame(pixels: Any, first: int, batch: int) -> Any:
    """Return a copy of ``batch`` images from ``first`` on, wrapping around at the end."""
    return pixels[[(first + i) % len(pixels) for i in range(batch)]]
