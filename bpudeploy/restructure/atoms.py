"""Symbolic shapes: an axis is a product of atoms (indivisible indices), and reshapes only regroup atoms.

Each tensor of the original network, of any rank, is a list of logical axes over the atoms of a physical 4-D
tensor. Reshape, Transpose, Squeeze and Unsqueeze then cost nothing until an operator needs another physical layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Atom:
    """An index over ``size`` values (at least 2), compared by identity."""

    size: int


Atoms = tuple[Atom, ...]
"""A product of indices in row-major order, outermost first; empty for an axis of size 1."""
Dims = tuple[Atoms, ...]
"""The four axes of a physical tensor."""


def size(atoms: Iterable[Atom]) -> int:
    """Return the product of the sizes of ``atoms``."""
    return math.prod(atom.size for atom in atoms)


def sizes(groups: Iterable[Atoms]) -> list[int]:
    """Return the shape of a tensor whose axes are ``groups``."""
    return [size(group) for group in groups]


def flat(groups: Iterable[Atoms]) -> Atoms:
    """Return the atoms of all groups in order."""
    return tuple(atom for group in groups for atom in group)


def new_axis(n: int) -> Atoms:
    """Return a new axis of ``n`` values."""
    return (Atom(n),) if n > 1 else ()


def with_axis(axes: Iterable[T], index: int, new: T) -> tuple[T, ...]:
    """Return ``axes``, as atoms or lengths, with the one at ``index`` replaced by ``new``."""
    return tuple(new if i == index else axis for i, axis in enumerate(axes))


def substitute(atoms: Iterable[Atom], parts: Mapping[Atom, Atoms]) -> Atoms:
    """Return ``atoms`` with each key of ``parts`` replaced by its value."""
    return tuple(part for atom in atoms for part in parts.get(atom, (atom,)))


def regroup(atoms: Atoms, shape: Sequence[int]) -> tuple[tuple[Atoms, ...], dict[Atom, Atoms]] | None:
    """Split ``atoms``, in row-major order, into axes of ``shape``.

    Returns:
        The axes, and the parts of each atom that had to be split; None if the shapes share no factors
        (such as (4, 3) and (3, 4)).
    """
    left, splits, axes = list(atoms), dict[Atom, Atoms](), list[Atoms]()
    for n in shape:
        axis: list[Atom] = []
        while n > 1:
            if not left:
                return None
            atom = left.pop(0)
            if n % atom.size == 0:
                axis.append(atom)
                n //= atom.size
            elif atom.size % n == 0:
                outer, inner = Atom(n), Atom(atom.size // n)
                root = next((a for a, parts in splits.items() if atom in parts), atom)
                splits[root] = substitute(splits.get(root, (root,)), {atom: (outer, inner)})
                left.insert(0, inner)
                axis.append(outer)
                n = 1
            else:
                return None
        axes.append(tuple(axis))
    return None if left else (tuple(axes), splits)


def refinement(factorings: Sequence[Atoms]) -> list[int] | None:
    """Return the coarsest list of factors into which all ``factorings`` (of equal size) can be split, or None."""
    total = size(factorings[0])
    cuts = {1, total}
    for atoms in factorings:
        inner = 1
        for atom in reversed(atoms):
            inner *= atom.size
            cuts.add(inner)
    ordered = sorted(cuts)
    steps = list(pairwise(ordered))
    if any(b % a for a, b in steps):
        return None
    return [b // a for a, b in reversed(steps)]


def matched(atoms: Atoms, common: Atoms) -> dict[Atom, Atoms]:
    """Return the parts of each of ``atoms`` in ``common``, a refinement of them."""
    parts, left = {}, list(common)
    for atom in atoms:
        taken: list[Atom] = []
        while size(taken) < atom.size:
            taken.append(left.pop(0))
        parts[atom] = tuple(taken)
    return parts
