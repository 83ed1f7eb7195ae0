"""A tensor of the original network during lowering: logical axes of any rank over a physical 4-D tensor."""

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
    """A deferred y = x · scale + shift, to be folded into a convolution.

    ``scale`` and ``shift`` are float64 over ``atoms``, row-major; one number each if ``atoms`` is empty.
    """

    atoms: Atoms
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Convolution:
    """The convolution that produces a value; changes of its output channels are folded into its weights.

    ``weight`` (out, in / group, kh, kw) and ``bias`` (out,) are float32; ``source`` is the input tensor.
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

    Atoms of ``axes`` that are not in ``dims`` are broadcast. ``pending`` is still to be applied. ``producer`` is set
    while the physical tensor is the output of that convolution and has no other reader.
    """

    name: str
    dims: Dims
    axes: tuple[Atoms, ...]
    producer: Convolution | None = None
    pending: Affine | None = None

    @property
    def shape(self) -> list[int]:
        """The shape of the original tensor."""
        return sizes(self.axes)

    @property
    def stored(self) -> frozenset[Atom]:
        """The atoms of the physical tensor; the others are broadcast."""
        return frozenset(flat(self.dims))

    def stored_as(self, name: str, dims: Dims | None = None) -> Value:
        """Return the value in another physical tensor, of the same ``dims`` unless given."""
        return replace(self, name=name, dims=dims or self.dims, producer=None)

    def with_rank(self, rank: int) -> Value:
        """Return the value with leading axes of size 1, as in NumPy's broadcasting."""
        return replace(self, axes=((),) * (rank - len(self.axes)) + self.axes)

    def substituted(self, parts: Mapping[Atom, Atoms]) -> Value:
        """Return the value with atoms split or renamed."""
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
