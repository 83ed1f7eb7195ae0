"""Cut images into windows, and join windows to images, by slices: moves of whole pixels.

The exact rewrite cuts (N, C, H, W) into windows (n, C, h, w) by Reshapes and Transposes, which an accelerator with
channels last must carry out value by value. Here each window is a slice of the rows and of the columns, and windows are
joined on axis 0; the way back is the same in reverse. Where the image is rolled before or after, as in shifted windows,
what crosses its border is joined of two slices, and the roll itself is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bpudeploy.layout.moves import Indices, ends, indices, numbered
from bpudeploy.restructure.edit import emit, reshape, slice_axis, tidy
from bpudeploy.restructure.graph import Graph

_MOST = 256
"""Windows of an image; more slices than this take the compiler too long."""


@dataclass(frozen=True)
class _Windows:
    """``rows`` x ``columns`` windows of (N, C, H, W) ``image``, which starts at pixel ``origin``, rolled."""

    image: tuple[int, ...]
    rows: int
    columns: int
    origin: tuple[int, int] = (0, 0)

    @property
    def size(self) -> tuple[int, int]:
        return self.image[2] // self.rows, self.image[3] // self.columns

    def joined(self, windows: Indices) -> Indices:
        """Return windows (n, C, ...) as an image (N, C, H, W)."""
        n, c, height, width = self.image
        fine = windows.reshape(n, self.rows, self.columns, c, *self.size)
        return fine.transpose(0, 3, 1, 4, 2, 5).reshape(n, c, height, width)

    def origin_of(self, image: Indices, rolled: Indices) -> tuple[int, int] | None:
        """Return the pixel of ``image`` at which ``rolled`` starts if it is ``image`` rolled, or None."""
        places = np.argwhere(image[0, 0] == rolled[0, 0, 0, 0])
        if len(places) != 1:
            return None
        y, x = (int(n) for n in places[0])
        same = np.array_equal(np.roll(image, (-y, -x), axis=(2, 3)), rolled)
        return (y, x) if same else None


def slice_windows(graph: Graph) -> int:
    """Rewrite every move that cuts an image into windows or joins windows to an image; return how many."""
    count = 0
    for name, source in ends(graph):
        before, after = numbered(graph.shape(source)), indices(graph, name, source)
        cut, join = _find_cut(before, after), _find_join(before, after)
        if cut is not None:
            made = _cut(graph, source, cut, name)
        elif join is not None:
            made = _join(graph, source, join, name)
        else:
            continue
        if graph.shape(made) != after.shape:
            made = reshape(graph, made, after.shape, f"{name}.shaped")
        graph.replace_uses(name, made)
        count += 1
    if count:
        tidy(graph)
    return count


def _find_cut(image: Indices, windows: Indices) -> _Windows | None:
    """Return how ``windows`` are cut out of ``image``, or None if they are something else."""
    for each in _grids(image, windows):
        origin = each.origin_of(image, each.joined(windows))
        if origin is not None:
            return _Windows(each.image, each.rows, each.columns, origin)
    return None


def _find_join(windows: Indices, image: Indices) -> _Windows | None:
    """Return how ``image`` is joined of ``windows``, or None if it is something else."""
    for each in _grids(image, windows):
        origin = each.origin_of(each.joined(windows), image)
        if origin is not None:
            return _Windows(each.image, each.rows, each.columns, origin)
    return None


def _grids(image: Indices, windows: Indices) -> Iterator[_Windows]:
    """Yield the numbers of rows and columns of windows for which the shapes fit."""
    (n, channels, height, width), (count, *_) = image.shape, windows.shape
    if image.size != windows.size or windows.shape[1] != channels or count % n or not 1 < count // n <= _MOST:
        return
    for rows in range(1, count // n + 1):
        columns = count // n // rows
        if rows * columns * n == count and height % rows == 0 and width % columns == 0:
            found = _Windows(image.shape, rows, columns)
            if windows.shape[2:] in (found.size, (1, found.size[0] * found.size[1])):
                yield found


def _cut(graph: Graph, source: str, found: _Windows, base: str) -> str:
    n, channels, *_ = found.image
    height, width = found.size
    parts = []
    for image in _each(graph, source, n, base):
        for i in range(found.rows):
            band = _ring(graph, image, 2, found.origin[0] + i * height, height, base)
            for j in range(found.columns):
                parts.append(_ring(graph, band, 3, found.origin[1] + j * width, width, base))
    return emit(graph, "Concat", f"{base}.windows", parts, (len(parts), channels, height, width), axis=0)


def _join(graph: Graph, source: str, found: _Windows, base: str) -> str:
    n, channels, *_ = found.image
    count, (height, width) = n * found.rows * found.columns, found.size
    if graph.shape(source)[2:] != found.size:
        source = reshape(graph, source, (count, channels, height, width), f"{base}.windows")
    windows, images = _each(graph, source, count, base), []
    for b in range(n):
        bands = []
        for i in range(found.rows):
            first = (b * found.rows + i) * found.columns
            band = _rolled(graph, windows[first : first + found.columns], 3, found.origin[1], base)
            bands.append(_concat(graph, band, 3, f"{base}.band"))
        images.append(_concat(graph, _rolled(graph, bands, 2, found.origin[0], base), 2, f"{base}.image"))
    return _concat(graph, images, 0, f"{base}.images")


def _each(graph: Graph, tensor: str, count: int, base: str) -> list[str]:
    """Return the ``count`` elements of axis 0."""
    if count == 1:
        return [tensor]
    return [slice_axis(graph, tensor, 0, i, i + 1, f"{base}.one") for i in range(count)]


def _ring(graph: Graph, tensor: str, axis: int, start: int, size: int, base: str) -> str:
    """Return ``size`` elements of an axis from ``start`` on, the first ones following the last."""
    full = graph.shape(tensor)[axis]
    if size == full and start % full == 0:
        return tensor
    start %= full
    stop = min(start + size, full)
    parts = [slice_axis(graph, tensor, axis, start, stop, f"{base}.slice")]
    if start + size > full:
        parts.append(slice_axis(graph, tensor, axis, 0, start + size - full, f"{base}.slice"))
    return _concat(graph, parts, axis, f"{base}.around")


def _rolled(graph: Graph, parts: Sequence[str], axis: int, start: int, base: str) -> list[str]:
    """Return the parts of an axis, to be joined, so that they start at element ``start``."""
    size = graph.shape(parts[0])[axis]
    first, inside = divmod(start, size)
    order = [*parts[first:], *parts[:first]]
    if not inside:
        return order
    head = slice_axis(graph, order[0], axis, inside, size, f"{base}.slice")
    return [head, *order[1:], slice_axis(graph, order[0], axis, 0, inside, f"{base}.slice")]


def _concat(graph: Graph, parts: Sequence[str], axis: int, base: str) -> str:
    if len(parts) == 1:
        return parts[0]
    shape = list(graph.shape(parts[0]))
    shape[axis] = sum(graph.shape(part)[axis] for part in parts)
    return emit(graph, "Concat", base, parts, shape, axis=axis)
