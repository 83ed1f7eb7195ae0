"""Delta against files on the board: finds their blocks at any offset of a local file (rsync's algorithm, in numpy).

The board hashes blocks at fixed offsets, which its standard library does at hundreds of MB/s; the search at every
offset runs here. See docs/decisions/0025-rsync-blocks.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpudeploy.transfer.receiver import BLOCK, DIGEST, block_digest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_ADLER = 65521
_FILTER_BITS = 20
_MIN_WINDOW, _MAX_WINDOW = 1 << 14, 1 << 20


@dataclass(frozen=True)
class Literal:
    """Bytes ``start`` to ``end`` of the local file, which the board does not have."""

    start: int
    end: int


@dataclass(frozen=True)
class Copy:
    """``length`` bytes from offset ``at`` of the board's ``base``-th file."""

    base: int
    at: int
    length: int


Part = Literal | Copy


class _Blocks:
    """The blocks of all bases, by digest."""

    def __init__(self, bases: Sequence[bytes]) -> None:
        import numpy as np

        self._bases = bases
        self._index: dict[bytes, Copy] = {}
        for base, digests in enumerate(bases):
            for block in range(len(digests) // DIGEST.size):
                self._index.setdefault(self._digest(base, block), Copy(base, block * BLOCK, BLOCK))
        weak = np.array([DIGEST.unpack(digest)[0] for digest in self._index], np.uint32)
        self._weak = np.sort(weak)
        self._filter = np.zeros(1 << _FILTER_BITS, bool)
        self._filter[_slot(weak)] = True

    def _digest(self, base: int, block: int) -> bytes:
        return self._bases[base][block * DIGEST.size : (block + 1) * DIGEST.size]

    def next_digest(self, block: Copy) -> bytes:
        """Return the digest of the following block in the same base; empty at the end."""
        return self._digest(block.base, block.at // BLOCK + 1)

    def find(self, data: memoryview, start: int, end: int) -> tuple[int, Copy] | None:
        """Return the first offset in ``start..end`` at which ``data`` contains a block, and the block."""
        import numpy as np

        sums = _rolling_adler(np.frombuffer(data[start : end + BLOCK - 1], np.uint8))
        candidates = np.flatnonzero(self._filter[_slot(sums)])
        found = sums[candidates]
        at = np.minimum(np.searchsorted(self._weak, found), len(self._weak) - 1)
        for offset in candidates[self._weak[at] == found]:
            here = start + int(offset)
            if block := self._index.get(block_digest(data[here : here + BLOCK])):
                return here, block
        return None


def _slot(weak: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return the top bits of a multiplicative hash, because the low bits of adler32 vary little."""
    import numpy as np

    return (weak * np.uint32(2654435761)) >> np.uint32(32 - _FILTER_BITS)


def _rolling_adler(x: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Return zlib.adler32 of the BLOCK bytes at each offset of ``x``.

    With s and t the sums and the sums of sums: a = 1 + s[i+n] - s[i], b = n + t[i+n] - t[i] - n s[i]. Both are below
    2**32 for n = 4096, so arithmetic modulo 2**32 is exact.
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
    """Yield the parts that make up ``data`` from ``start`` on, in order, given the block digests of each base."""
    blocks = _Blocks(bases) if any(bases) else None  # without a base, no NumPy is needed
    here = sent = start
    window = _MIN_WINDOW
    run: Copy | None = None
    block: Copy | None = None
    while blocks and here + BLOCK <= len(data):
        if block and blocks.next_digest(block) == block_digest(data[here : here + BLOCK]):
            found, block = here, Copy(block.base, block.at + BLOCK, BLOCK)
        elif hit := blocks.find(data, here, min(here + window, len(data) - BLOCK + 1)):
            found, block = hit
        else:
            here += window
            window, block = min(2 * window, _MAX_WINDOW), None
            continue
        if found == sent and run and run.base == block.base and run.at + run.length == block.at:
            run = Copy(run.base, run.at, run.length + BLOCK)
        else:
            if run:
                yield run
            if found > sent:
                yield Literal(sent, found)
            run = block
        here = sent = found + BLOCK
        window = _MIN_WINDOW
    if run:
        yield run
    if sent < len(data):
        yield Literal(sent, len(data))
