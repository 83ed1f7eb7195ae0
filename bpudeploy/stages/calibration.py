"""What a calibration set lacks, from its decoded pixels and its files' facts, with why it matters to the scales."""

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

FEWEST = 8
LONGEST = 4.0
"""Beyond this ratio of two shapes a centre crop keeps less than a quarter of the image."""
_ONE_COLOUR = 2  # levels of 255 that resampling and JPEG may add to a single colour

_WORDS = {
    ImageDefect.REPEATED: ("the same pixels as an image before", "it adds nothing to the scales"),
    ImageDefect.FLAT: ("one colour from edge to edge", "it sets no range but its own colour's"),
    ImageDefect.SMALL: (
        "smaller than the network's input",
        "enlarged, it lacks the detail that sets the largest values",
    ),
    ImageDefect.LONG: (
        f"more than {LONGEST:g} times as long or as narrow as the network's input",
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
class Seen:
    """A calibration image as far as findings need it: its file, its flaws, and the digest of its pixels."""

    file: str
    flaws: frozenset[ImageDefect]
    pixels: Digest


def look_at(file: str, decoded: Decoded, pixels: NDArray[np.uint8]) -> Seen:
    """Hold one image against the network's input.

    Args:
        pixels: uint8 RGB (H, W, 3), what the network's input became of ``decoded``.
    """
    import numpy as np

    width, height = decoded.image.size
    shape = (width * pixels.shape[0]) / (height * pixels.shape[1])
    holds = {
        ImageDefect.FLAT: np.ptp(pixels, axis=(0, 1)).max() <= _ONE_COLOUR,
        ImageDefect.SMALL: height < pixels.shape[0] or width < pixels.shape[1],
        ImageDefect.LONG: max(shape, 1 / shape) > LONGEST,
    }
    return Seen(file, decoded.flaws | {flaw for flaw, is_so in holds.items() if is_so}, digest_bytes(pixels.tobytes()))


def findings(seen: Sequence[Seen]) -> tuple[CalibrationFinding, ...]:
    """Return what is wrong with a whole calibration set: one finding a flaw, in the order of ``ImageDefect``."""
    first: dict[Digest, str] = {}
    for one in seen:
        first.setdefault(one.pixels, one.file)
    affected = {flaw: tuple(one.file for one in seen if flaw in one.flaws) for flaw in _WORDS}
    affected[ImageDefect.REPEATED] = tuple(one.file for one in seen if first[one.pixels] != one.file)
    found = [_finding(flaw, files, len(seen)) for flaw, files in affected.items() if files]
    if len(seen) < FEWEST:
        what = f"only {'one image' if len(seen) == 1 else f'{len(seen)} images'}"
        why = f"values beyond those seen here are clipped in every other image; take {FEWEST} or more"
        found.insert(0, CalibrationFinding(flaw=ImageDefect.FEW, files=(), what=what, why=why))
    return tuple(found)


def _finding(flaw: ImageDefect, files: tuple[str, ...], images: int) -> CalibrationFinding:
    what, why = _WORDS[flaw]
    if len(files) == images > 1:
        return CalibrationFinding(flaw=flaw, files=(), what=f"every image is {what}", why=why)
    return CalibrationFinding(flaw=flaw, files=files, what=what, why=why)
