"""Which parts of a file a board has already: its blocks, found in ours at any byte (rsync's search, by numpy).

The board digests blocks at fixed places, which its standard library does at hundreds of MB/s; the search for
them at every place is done here. See docs/decisions/0025-rsync-blocks.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpudeploy.transfer.receiver import BLOCK, RECORD, record

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_ADLER = 65521
_FILTER_BITS = 20
_FIRST, _LARGEST = 1 << 14, 1 << 20


@dataclass(frozen=True)
class Literal:
    """Bytes ``start`` to ``end`` of our file, which the board does not have."""

    start: int
    end: int


@dataclass(frozen=True)
class Copy:
    """``length`` bytes that the board has in its ``base``-th file, from ``at`` on."""

    base: int
    at: int
    length: int


Part = Literal | Copy


@dataclass(frozen=True)
class _Place:
    base: int
    block: int


class _Blocks:
    """The bases' blocks, by their record."""

    def __init__(self, bases: Sequence[bytes]) -> None:
        import numpy as np

        self._bases = bases
        self._places: dict[bytes, _Place] = {}
        for base, records in enumerate(bases):
            for block in range(len(records) // RECORD.size):
                self._places.setdefault(self._record(base, block), _Place(base, block))
        weak = np.array([RECORD.unpack(r)[0] for r in self._places], np.uint32)
        self._weak = np.sort(weak)
        self._maybe = np.zeros(1 << _FILTER_BITS, bool)
        self._maybe[_slot(weak)] = True

    def __bool__(self) -> bool:
        return bool(self._places)

    def _record(self, base: int, block: int) -> bytes:
        return self._bases[base][block * RECORD.size : (block + 1) * RECORD.size]

    def after(self, place: _Place) -> bytes:
        """Return the record of the block after ``place`` in its base; empty at the end."""
        return self._record(place.base, place.block + 1)

    def find(self, data: memoryview, start: int, end: int) -> tuple[int, _Place] | None:
        """Return the first offset in ``start..end`` where some block lies in ``data``, and the block's place."""
        import numpy as np

        sums = _adler_at_each(np.frombuffer(data[start : end + BLOCK - 1], np.uint8))
        likely = np.flatnonzero(self._maybe[_slot(sums)])
        found = sums[likely]
        at = np.minimum(np.searchsorted(self._weak, found), len(self._weak) - 1)
        for offset in likely[self._weak[at] == found]:
            here = start + int(offset)
            if place := self._places.get(record(data[here : here + BLOCK])):
                return here, place
        return None


def _slot(weak: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return the top bits of a multiplicative hash: adler32's own low bits are much alike."""
    import numpy as np

    return (weak * np.uint32(2654435761)) >> np.uint32(32 - _FILTER_BITS)


def _adler_at_each(x: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Return zlib.adler32 of every BLOCK bytes of ``x``, one for each offset.

    With s and t the sums and the sums of sums: a = 1 + s[i+n] - s[i], b = n + t[i+n] - t[i] - n s[i]. Both are
    below 2**32 for n = 4096, so sums that wrap at 2**32 give them exactly.
    """
    import numpy as np

    n = BLOCK
    s = np.zeros(len(x) + 1, np.uint32)
    np.cumsum(x, dtype=np.uint32, out=s[1:])
    t = np.cumsum(s, dtype=np.uint32)
    a = (s[n:] - s[:-n] + np.uint32(1)) % np.uint32(_ADLER)
    b = (t[n:] - t[:-n] - np.uint32(n) * s[:-n] + np.uint32(n)) % np.uint32(_ADLER)
    return np.asarray((b << np.uint32(16)) | a)


def parts(data: memoryview, start: int, bases: Sequence[bytes]) -> Iterator[Part]:
    """Yield what makes up ``data`` from ``start`` on, in order, given each base's records."""
    if not any(bases):
        if start < len(data):
            yield Literal(start, len(data))
        return
    blocks = _Blocks(bases)
    here = sent = start
    window = _FIRST
    run: Copy | None = None
    place: _Place | None = None
    while blocks and here + BLOCK <= len(data):
        if place and blocks.after(place) == record(data[here : here + BLOCK]):
            found, place = here, _Place(place.base, place.block + 1)
        elif hit := blocks.find(data, here, min(here + window, len(data) - BLOCK + 1)):
            found, place = hit
        else:
            here += window
            window, place = min(2 * window, _LARGEST), None
            continue
        if found == sent and run and run.base == place.base and run.at + run.length == place.block * BLOCK:
            run = Copy(run.base, run.at, run.length + BLOCK)
        else:
            if run:
                yield run
            if found > sent:
                yield Literal(sent, found)
            run = Copy(place.base, place.block * BLOCK, BLOCK)
        here = sent = found + BLOCK
        window = _FIRST
    if run:
        yield run
    if sent < len(data):
        yield Literal(sent, len(data))
