"""A tensor of the original network as we hold it: logical axes of any rank over a physical 4-D tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bpudeploy.restructure.atoms import Atom, Atoms, Dims, flat, sizes, substitute

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Affine:
    """y = x · scale + shift, not yet computed: it waits for a convolution to be folded into.

    ``scale`` and ``shift`` are float64 over ``atoms``, row-major; an empty ``atoms`` means one number each.
    """

    atoms: Atoms
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Maker:
    """The convolution that makes a value: a change of its output channels is a change of these weights.

    ``weight`` (out, in / group, kh, kw) and ``bias`` (out,) float32; ``source`` is its input tensor.
    """

    source: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1


@dataclass(frozen=True, eq=False)
class Value:
    """``name`` is a physical tensor of axes ``dims``; ``axes`` are the original's axes over the same atoms.

    Atoms in ``axes`` that are not in ``dims`` are broadcast: the value is the same along them. ``pending``
    is still to be applied. ``maker`` is set while the physical tensor is the output of that convolution
    and nobody else needs it as it is.
    """

    name: str
    dims: Dims
    axes: tuple[Atoms, ...]
    maker: Maker | None = None
    pending: Affine | None = None

    @property
    def shape(self) -> list[int]:
        """The original's shape."""
        return sizes(self.axes)

    @property
    def stored(self) -> frozenset[Atom]:
        """The atoms that are really there."""
        return frozenset(flat(self.dims))

    def ranked(self, rank: int) -> Value:
        """Return the same value with axes of size 1 in front, as numpy's broadcasting does."""
        return replace(self, axes=((),) * (rank - len(self.axes)) + self.axes)

    def substituted(self, parts: Mapping[Atom, Atoms]) -> Value:
        """Return the same value with atoms split or renamed."""
        if not parts:
            return self
        a, b, c, d = (substitute(group, parts) for group in self.dims)
        pending = self.pending
        return replace(
            self,
            dims=(a, b, c, d),
            axes=tuple(substitute(axis, parts) for axis in self.axes),
            pending=replace(pending, atoms=substitute(pending.atoms, parts)) if pending else None,
        )
