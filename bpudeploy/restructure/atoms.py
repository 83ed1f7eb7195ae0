"""Index arithmetic without data: an axis is a product of atoms, and reshapes only regroup atoms.

Every tensor of the original network, of any rank, is kept as a list of logical axes over the atoms of a
physical 4-D tensor. Reshape, Transpose, Squeeze and Unsqueeze then cost nothing until an operator needs
another physical layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, eq=False)
class Atom:
    """An index that runs over ``size`` values (at least 2); atoms are told apart by identity."""

    size: int


Atoms = tuple[Atom, ...]
"""A product of indices in row-major order: the first is the outermost. Empty: an axis of size 1."""
Dims = tuple[Atoms, Atoms, Atoms, Atoms]
"""The four axes of a physical tensor."""


def size(atoms: Iterable[Atom]) -> int:
    """Return the number of values that ``atoms`` run over together."""
    return math.prod(atom.size for atom in atoms)


def sizes(groups: Iterable[Atoms]) -> list[int]:
    """Return the size of each group: the shape of a tensor whose axes are ``groups``."""
    return [size(group) for group in groups]


def flat(groups: Iterable[Atoms]) -> Atoms:
    """Return all atoms in order."""
    return tuple(atom for group in groups for atom in group)


def new_axis(n: int) -> Atoms:
    """Return an axis of ``n`` values that no other axis shares."""
    return (Atom(n),) if n > 1 else ()


def dims(a: Iterable[Atom] = (), b: Iterable[Atom] = (), c: Iterable[Atom] = (), d: Iterable[Atom] = ()) -> Dims:
    """Return four groups."""
    return tuple(a), tuple(b), tuple(c), tuple(d)


def substitute(atoms: Iterable[Atom], parts: Mapping[Atom, Atoms]) -> Atoms:
    """Return ``atoms`` with each one that has ``parts`` replaced by them."""
    return tuple(part for atom in atoms for part in parts.get(atom, (atom,)))


def regroup(atoms: Atoms, shape: Sequence[int]) -> tuple[tuple[Atoms, ...], dict[Atom, Atoms]] | None:
    """Cut ``atoms``, in row-major order, into axes of ``shape``, splitting atoms where a cut falls inside.

    Returns:
        The axes and the splits, or None when no split of whole factors does it (such as (4, 3) to (3, 4)).
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
    """Return the coarsest list of factors into which every one of ``factorings`` (of equal size) can be split.

    None when there is none, such as for (3, 4) and (4, 3).
    """
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
    """Return how ``atoms`` are split or renamed to give ``common``, a refinement of them."""
    parts, left = {}, list(common)
    for atom in atoms:
        taken: list[Atom] = []
        while size(taken) < atom.size:
            taken.append(left.pop(0))
        parts[atom] = tuple(taken)
    return parts
