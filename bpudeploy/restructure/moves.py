"""Convert between physical layouts by Reshapes and Transposes of at most four axes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import TYPE_CHECKING

from bpudeploy.restructure.atoms import Atom, Atoms, Dims, flat, size, sizes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_RANK = 4


@dataclass(frozen=True)
class Step:
    """One operator of a move: a Reshape to ``shape``, or a Transpose by ``perm``."""

    shape: tuple[int, ...] = ()
    perm: tuple[int, ...] = ()


def transposes(source: Dims, target: Dims) -> bool:
    """Return whether the order in memory changes; if not, at most a Reshape is needed."""
    return flat(source) != flat(target)


def steps(source: Dims, target: Dims) -> list[Step]:
    """Return the operators that convert ``source`` to ``target``, two layouts of the same atoms."""
    shape, goal = tuple(sizes(source)), tuple(sizes(target))
    found: list[Step] = []
    order = flat(source)
    for after in _orders(order, flat(target)):
        shape = _transpose(found, shape, order, after, goal)
        order = after
    if shape != goal:
        found.append(Step(shape=goal))
    return found


def _transpose(
    found: list[Step], shape: tuple[int, ...], order: Atoms, after: Atoms, goal: tuple[int, ...]
) -> tuple[int, ...]:
    """Append a Transpose from ``order`` to ``after``, and a Reshape before it if required; return the new shape."""
    blocks = _blocks(order, after)
    lengths = [size(block) for block in blocks]
    starts = [block[0] for block in blocks]
    wanted = sorted(range(len(blocks)), key=lambda i: after.index(starts[i]))
    best: tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None = None
    for slots in combinations(range(_RANK), len(blocks)):
        given = [1] * _RANK
        for slot, n in zip(slots, lengths, strict=True):
            given[slot] = n
        for perm in permutations(range(_RANK)):
            if [slots.index(p) for p in perm if p in slots] != wanted:
                continue
            made = tuple(given[p] for p in perm)
            cost = 2 * (tuple(given) != shape) + (made != goal)
            if best is None or cost < best[0]:
                best = (cost, tuple(given), perm, made)
    assert best is not None
    _, before, perm, made = best
    if before != shape:
        found.append(Step(shape=before))
    found.append(Step(perm=perm))
    return made


def _orders(order: Atoms, goal: Atoms) -> list[Atoms]:
    """Return the intermediate orders, ``goal`` last, each one 4-D Transpose from the one before."""
    if order == goal:
        return []
    if len(_blocks(order, goal)) <= _RANK:
        return [goal]
    blocks = _blocks(order, goal)
    start = tuple(range(len(blocks)))
    end = tuple(sorted(start, key=lambda i: goal.index(blocks[i][0])))
    previous: dict[tuple[int, ...], tuple[int, ...]] = {start: start}
    queue = deque([start])
    while end not in previous:
        here = queue.popleft()
        for there in _swaps(here):
            if there not in previous:
                previous[there] = here
                queue.append(there)
    path = [end]
    while previous[path[-1]] != path[-1]:
        path.append(previous[path[-1]])
    return [tuple(atom for i in stop for atom in blocks[i]) for stop in reversed(path[:-1])]


def _swaps(here: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return every order that one 4-D Transpose of ``here`` gives."""
    found = []
    for cuts in combinations(range(1, len(here)), _RANK - 1):
        runs = [here[a:b] for a, b in zip((0, *cuts), (*cuts, len(here)), strict=True)]
        found += [tuple(i for run in order for i in run) for order in permutations(runs)]
    return found


def _blocks(order: Atoms, goal: Atoms) -> list[Atoms]:
    """Split ``order`` into the longest runs that are contiguous in ``goal``."""
    at = {atom: i for i, atom in enumerate(goal)}
    blocks: list[list[Atom]] = []
    for atom in order:
        if blocks and at[atom] == at[blocks[-1][-1]] + 1:
            blocks[-1].append(atom)
        else:
            blocks.append([atom])
    return [tuple(block) for block in blocks]


def move_array(array: NDArray[np.generic], source: Sequence[Atoms], target: Sequence[Atoms]) -> NDArray[np.generic]:
    """Apply a layout change to a constant.

    ``array`` has one axis per group of ``source``, of the group's size or 1 to broadcast; likewise the result
    for ``target``.
    """
    import numpy as np

    fine: list[int] = []
    for n, group in zip(array.shape, source, strict=True):
        fine += [atom.size if n > 1 else 1 for atom in group]
    order = {atom: i for i, atom in enumerate(flat(source))}
    array = array.reshape(fine)
    moved = array.transpose([order[atom] for atom in flat(target)])
    shape, full, at = [], [], 0
    for group in target:
        lengths = moved.shape[at : at + len(group)]
        same = all(n == 1 for n in lengths)
        full += [1 if same else atom.size for atom in group]
        shape.append(1 if same else size(group))
        at += len(group)
    return np.broadcast_to(moved, full).reshape(shape)
