"""Decoding of images to RGB with 8 bits per channel."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpudeploy.backends.samples import ImageDefect
from bpudeploy.errors import StageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

_HINT = "remove the file, or save it again as JPEG or PNG with 8 bits per channel"


@dataclass(frozen=True, eq=False)
class Decoded:
    """An image in mode RGB, and the properties of its file that RGB cannot represent."""

    image: Image.Image
    flaws: frozenset[ImageDefect]


def decode(file: str, data: bytes) -> Decoded:
    """Decode the first frame of an image in any format and mode that Pillow supports; ``file`` is its name in errors.

    16-bit grey is rescaled to round(v / 257), as in PNG (https://www.w3.org/TR/png-3/#13Sample-depth-rescaling);
    32-bit values must be within 0..255 and are rounded. Pillow would clip both at 255. Everything else is converted by
    Pillow, as in timm's loader.

    Raises:
        StageError: the image cannot be decoded, or its values are out of range.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise StageError(f"cannot decode {file}: it is empty", hint=_HINT)
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return _to_rgb(image)
    except UnidentifiedImageError as error:
        raise StageError(f"cannot decode {file}: not an image, or of an unknown format", hint=_HINT) from error
    except Exception as error:  # on damaged bytes Pillow's parsers raise any exception, even TypeError
        raise StageError(f"cannot decode {file}: {str(error) or type(error).__name__}", hint=_HINT) from error


def _to_rgb(image: Image.Image) -> Decoded:
    import numpy as np
    from PIL import Image

    several = getattr(image, "n_frames", 1) > 1 and image.format != "MPO"  # MPO: a phone's photo and its gain map
    flaws = {ImageDefect.FRAMES} if several else set()
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.uint32)
        flaws |= {ImageDefect.SHALLOW} if 0 < values.max() < 1 << 12 else set()
        return Decoded(Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB"), frozenset(flaws))
    if image.mode in ("I", "F"):
        return Decoded(Image.fromarray(_levels(np.asarray(image))).convert("RGB"), frozenset(flaws))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        flaws |= {ImageDefect.TRANSPARENT} if image.getchannel("A").getextrema() != (255, 255) else set()
    flaws |= {ImageDefect.CMYK} if image.mode == "CMYK" else set()
    return Decoded(image.convert("RGB"), frozenset(flaws))


def _levels(values: NDArray[np.int32] | NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round 32-bit values to 8 bits.

    Raises:
        ValueError: they are not finite, or their range is not 0..255 (for example 0..1).
    """
    import numpy as np

    low, high = float(values.min()), float(values.max())
    if not np.isfinite((low, high)).all():
        raise ValueError("it contains NaN or infinite values")
    if low < 0 or high > 255 or 0 < high <= 1:
        raise ValueError(f"its values range from {low:g} to {high:g}, expected 0 to 255")
    return np.rint(values).astype(np.uint8)
