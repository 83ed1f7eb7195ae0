"""Choose the physical layout that an operator requires, closest to the current one."""

from __future__ import annotations

from collections.abc import Sequence

from bpudeploy.restructure.atoms import Atom, Atoms, Dims, flat, size
from bpudeploy.restructure.moves import transposes
from bpudeploy.restructure.value import Value


def convolution_layout(dims: Dims, channels: Atoms) -> Dims:
    """Return the layout closest to ``dims`` whose axis 1 is ``channels``, in their order in memory."""
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
    """Return the layout closest to ``dims`` in which ``atoms`` are a whole physical axis."""
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
    return tuple(groups)


def restricted(dims: Dims, value: Value) -> Dims:
    """Return ``dims`` reduced to the atoms that ``value`` stores."""
    return tuple(tuple(x for x in group if x in value.stored) for group in dims)


def joint_layout(left: Value, right: Value) -> Dims:
    """Return a layout of all stored atoms that lets ``left`` and ``right`` broadcast: each has a whole axis or none.

    It is based on the layout of the value whose partner then moves fewer values.
    """
    candidates = []
    for lead, other in ((left, right), (right, left)):
        dims = _whole_or_not(_extended(lead, other), [lead.stored, other.stored])
        cost = sum(_moved(v, dims) for v in (lead, other))
        candidates.append((cost, size(dims[0]), dims))
    return min(candidates, key=lambda c: c[:2])[2]


def _moved(value: Value, dims: Dims) -> int:
    """Return the cost of a relayout: 4 per value for a Transpose, 1 for a Reshape alone, else 0."""
    target = restricted(dims, value)
    if target == value.dims:
        return 0
    return 4 * size(value.stored) if transposes(value.dims, target) else 1


def _extended(lead: Value, other: Value) -> Dims:
    """Return the layout of ``lead`` with the atoms that only ``other`` stores, on empty axes if possible."""
    groups = list(lead.dims)
    extra = [tuple(a for a in group if a not in lead.stored) for group in other.dims]
    for index, atoms in enumerate(extra):
        if atoms:
            free = next((g for g in (index, 3, 2, 0, 1) if not groups[g]), index)
            groups[free] = groups[free] + atoms
    return tuple(groups)


def _whole_or_not(dims: Dims, stored: Sequence[frozenset[Atom]]) -> Dims:
    """Return ``dims`` regrouped so that each of ``stored`` contains each group entirely or not at all."""

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
            batch, *groups = map(tuple, runs if len(runs) > 1 else [[], *runs])
            return batch, groups[0], *[()] * (3 - len(groups)), *groups[1:]
    raise AssertionError("two patterns give at most four runs when sorted")
