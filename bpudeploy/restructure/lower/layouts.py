"""Which physical layout an operator wants, as near to the present one as it can be."""

from __future__ import annotations

from collections.abc import Sequence

from bpudeploy.restructure.atoms import Atom, Atoms, Dims, flat, size
from bpudeploy.restructure.moves import transposes
from bpudeploy.restructure.value import Value


def convolution_layout(dims: Dims, channels: Atoms) -> Dims:
    """Return the layout nearest to ``dims`` whose axis 1 is ``channels``, in whatever order is in memory."""
    wanted = set(channels)
    if set(dims[1]) == wanted:
        return dims
    inside = tuple(a for a in flat(dims) if a in wanted)
    batch = tuple(a for a in dims[0] if a not in wanted)
    rest = [group for group in (tuple(a for a in g if a not in wanted) for g in dims[1:]) if group]
    if len(rest) > 2:
        rest = [rest[0], rest[1] + rest[2]]
    rows, columns = (rest[0], rest[1]) if len(rest) == 2 else ((), rest[0] if rest else ())
    return batch, inside, rows, columns


def exposing_layout(dims: Dims, atoms: Atoms) -> Dims:
    """Return the layout nearest to ``dims`` in which ``atoms`` are a physical axis of their own."""
    if atoms in dims:
        return dims
    groups: list[Atoms] = []
    for group in dims:
        at = next((i for i in range(len(group)) if group[i : i + len(atoms)] == atoms), None)
        if at is None:
            groups.append(tuple(a for a in group if a not in atoms))
        else:
            groups += [part for part in (group[:at], atoms, group[at + len(atoms) :]) if part]
    if atoms not in groups:
        groups.append(atoms)
    while len(groups) > 4 and () in groups:
        groups.pop(max(i for i, group in enumerate(groups) if group == ()))
    while len(groups) > 4:
        i = max(i for i in range(len(groups) - 1) if groups[i] != atoms and groups[i + 1] != atoms)
        groups[i : i + 2] = [groups[i] + groups[i + 1]]
    return groups[0], groups[1], groups[2], groups[3]


def restricted(dims: Dims, value: Value) -> Dims:
    """Return ``dims`` with only the atoms that ``value`` stores."""
    a, b, c, d = (tuple(x for x in group if x in value.stored) for group in dims)
    return a, b, c, d


def joint_layout(left: Value, right: Value) -> Dims:
    """Return a layout of all stored atoms in which each of the two has every axis whole or not at all.

    It is that of one of the two, the one that makes the other move fewer values.
    """
    candidates = []
    for lead, other in ((left, right), (right, left)):
        dims = _whole_or_not(_extended(lead, other), [lead.stored, other.stored])
        cost = sum(_moved(v, dims) for v in (lead, other))
        candidates.append((cost, size(dims[0]), dims))
    return min(candidates, key=lambda c: c[:2])[2]


def _moved(value: Value, dims: Dims) -> int:
    """Return how many values a relayout moves; a Reshape alone counts as little, nothing as nothing."""
    target = restricted(dims, value)
    if target == value.dims:
        return 0
    return 4 * size(value.stored) if transposes(value.dims, target) else 1


def _extended(lead: Value, other: Value) -> Dims:
    """Return the layout of ``lead`` with the atoms that only ``other`` stores put where there is room."""
    groups = list(lead.dims)
    extra = [tuple(a for a in group if a not in lead.stored) for group in other.dims]
    for index, atoms in enumerate(extra):
        if atoms:
            place = next((g for g in (index, 3, 2, 0, 1) if not groups[g]), index)
            groups[place] = groups[place] + atoms
    a, b, c, d = groups
    return a, b, c, d


def _whole_or_not(dims: Dims, stored: Sequence[frozenset[Atom]]) -> Dims:
    """Return ``dims`` cut so that each of ``stored`` holds each group whole or not at all."""

    def pattern(atom: Atom) -> tuple[bool, ...]:
        return tuple(atom in s for s in stored)

    if all(len({pattern(a) for a in group}) <= 1 for group in dims):
        return dims
    for order in (flat(dims), tuple(sorted(flat(dims), key=pattern))):
        runs: list[list[Atom]] = []
        for group in [*dims] if order == flat(dims) else [order]:
            for atom in group:
                if runs and runs[-1] and pattern(runs[-1][-1]) == pattern(atom) and atom is not group[0]:
                    runs[-1].append(atom)
                else:
                    runs.append([atom])
        while len(runs) > 4:
            pair = next((i for i in range(len(runs) - 1) if pattern(runs[i][-1]) == pattern(runs[i + 1][0])), None)
            if pair is None:
                break
            runs[pair : pair + 2] = [runs[pair] + runs[pair + 1]]
        if len(runs) <= 4:
            groups = [tuple(r) for r in runs]
            padded = (
                [*groups[:2], *[()] * (4 - len(groups)), *groups[2:]] if len(groups) >= 2 else [(), *groups, (), ()]
            )
            a, b, c, d = padded
            return a, b, c, d
    raise AssertionError("two patterns make at most four runs when sorted")
