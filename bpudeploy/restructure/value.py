"""A tensor of the original network during lowering: logical axes of any rank over a physical 4-D tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bpudeploy.restructure.atoms import Atom, Atoms, Dims, flat, new_axis, sizes, substitute, with_axis

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


@dataclass(frozen=True)
class Window:
    """The sliding window of a convolution or pool, in ONNX's attributes; ``pads`` are (top, left, bottom, right)."""

    kernel_shape: list[int] = field(default_factory=lambda: [1, 1])
    strides: list[int] = field(default_factory=lambda: [1, 1])
    dilations: list[int] = field(default_factory=lambda: [1, 1])
    pads: list[int] = field(default_factory=lambda: [0] * 4)

    @property
    def span(self) -> list[int]:
        """Height and width of the dilated kernel."""
        return [d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel_shape, strict=True)]

    def output_dims(self, dims: Dims, *, ceil: bool = False) -> Dims:
        """Return the layout of the output; an axis that the window does not change keeps its atoms."""
        for i, (n, span, stride) in enumerate(zip(sizes(dims)[2:], self.span, self.strides, strict=True)):
            room = n + self.pads[i] + self.pads[2 + i] - span
            out = (-(-room // stride) if ceil else room // stride) + 1
            if ceil and (out - 1) * stride >= n + self.pads[i]:
                out -= 1
            if not (span == 1 and stride == 1 and out == n):
                dims = with_axis(dims, 2 + i, new_axis(out))
        return dims


@dataclass(frozen=True, eq=False)
class Convolution:
    """The convolution that produces a value; changes of its output channels are folded into its weights.

    ``weight`` (out, in / group, kh, kw) and ``bias`` (out,) are float32; ``source`` is the input tensor. It is 1x1
    unless it has another ``window``.
    """

    source: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    window: Window = field(default_factory=Window)
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
        pending = self.pending
        return replace(
            self,
            dims=tuple(substitute(group, parts) for group in self.dims),
            axes=tuple(substitute(axis, parts) for axis in self.axes),
            pending=replace(pending, atoms=substitute(pending.atoms, parts)) if pending else None,
        )
