"""Problems of a calibration set, found in its decoded pixels and file metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpudeploy.backends.samples import CalibrationFinding, ImageDefect
from bpudeploy.digest import Digest, digest_bytes
from bpudeploy.stages.decode import Decoded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_IMAGES = 8
MAX_ASPECT_RATIO = 4.0
"""Relative to the network's input; above it a centre crop keeps less than a quarter of the image."""
_FLAT_RANGE = 2  # levels of 255 that resampling and JPEG may add to a single colour

_TEXTS = {  # stored in SAMPLES artifacts: changing one changes their bytes
    ImageDefect.REPEATED: ("the same pixels as an image before", "it adds nothing to the scales"),
    ImageDefect.FLAT: ("one colour from edge to edge", "it sets no range but its own colour's"),
    ImageDefect.SMALL: (
        "smaller than the network's input",
        "enlarged, it lacks the detail that sets the largest values",
    ),
    ImageDefect.LONG: (
        f"more than {MAX_ASPECT_RATIO:g} times as long or as narrow as the network's input",
        "most of it is cut off, or it is squeezed",
    ),
    ImageDefect.FRAMES: ("of several frames or pages", "only the first is used"),
    ImageDefect.TRANSPARENT: ("transparent in parts", "transparency is left out, so the colours underneath count"),
    ImageDefect.CMYK: ("CMYK", "its colours are converted without its profile"),
    ImageDefect.SHALLOW: (
        "16 bits a channel, the upper four empty",
        "it is nearly black; scale its values to 0..65535",
    ),
}


@dataclass(frozen=True)
class InspectedImage:
    """A calibration image: its file, its flaws, and the digest of its pixels."""

    file: str
    flaws: frozenset[ImageDefect]
    pixels: Digest


def inspect_image(file: str, decoded: Decoded, pixels: NDArray[np.uint8]) -> InspectedImage:
    """Compare a decoded image with the network's input ``pixels``, uint8 RGB (H, W, 3), that it was resized to."""
    import numpy as np

    width, height = decoded.image.size
    ratio = (width * pixels.shape[0]) / (height * pixels.shape[1])
    tests = {
        ImageDefect.FLAT: np.ptp(pixels, axis=(0, 1)).max() <= _FLAT_RANGE,
        ImageDefect.SMALL: height < pixels.shape[0] or width < pixels.shape[1],
        ImageDefect.LONG: max(ratio, 1 / ratio) > MAX_ASPECT_RATIO,
    }
    flaws = decoded.flaws | {flaw for flaw, present in tests.items() if present}
    return InspectedImage(file, flaws, digest_bytes(pixels.tobytes()))


def findings(images: Sequence[InspectedImage]) -> tuple[CalibrationFinding, ...]:
    """Return the problems of a calibration set: one finding per flaw, in the order of ``ImageDefect``."""
    first: dict[Digest, str] = {}
    for image in images:
        first.setdefault(image.pixels, image.file)
    affected = {flaw: tuple(image.file for image in images if flaw in image.flaws) for flaw in _TEXTS}
    affected[ImageDefect.REPEATED] = tuple(image.file for image in images if first[image.pixels] != image.file)
    found = [_finding(flaw, files, len(images)) for flaw, files in affected.items() if files]
    if len(images) < MIN_IMAGES:
        what = f"only {'one image' if len(images) == 1 else f'{len(images)} images'}"
        why = f"values beyond those seen here are clipped in every other image; take {MIN_IMAGES} or more"
        found.insert(0, CalibrationFinding(flaw=ImageDefect.FEW, files=(), what=what, why=why))
    return tuple(found)


def _finding(flaw: ImageDefect, files: tuple[str, ...], images: int) -> CalibrationFinding:
    what, why = _TEXTS[flaw]
    if len(files) == images > 1:
        return CalibrationFinding(flaw=flaw, files=(), what=f"every image is {what}", why=why)
    return CalibrationFinding(flaw=flaw, files=files, what=what, why=why)
