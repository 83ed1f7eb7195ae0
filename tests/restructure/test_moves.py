"""Any layout is reached by operators of four axes, with the same values as in NumPy."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bpudeploy.restructure.atoms import Atom, Atoms, Dims, flat, refinement, regroup, size, sizes, substitute
from bpudeploy.restructure.moves import move_array, steps


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Dims, Dims]:
    """Return two layouts of the same one to seven atoms."""
    atoms = [Atom(n) for n in draw(st.lists(st.integers(2, 4), min_size=1, max_size=7))]

    def cut(order: list[Atom]) -> Dims:
        at = sorted(draw(st.lists(st.integers(0, len(order)), min_size=3, max_size=3)))
        a, b, c = at
        return tuple(order[:a]), tuple(order[a:b]), tuple(order[b:c]), tuple(order[c:])

    return cut(draw(st.permutations(atoms))), cut(draw(st.permutations(atoms)))


@given(layouts())
@settings(deadline=None, max_examples=150)
def test_steps_have_four_axes_and_equal_one_transpose(pair: tuple[Dims, Dims]) -> None:
    source, target = pair
    values = np.arange(size(flat(source)))
    order = flat(source)
    fine = values.reshape([a.size for a in order]).transpose([order.index(a) for a in flat(target)])
    expected = fine.reshape(sizes(target))
    array = values.reshape(sizes(source))
    for step in steps(source, target):
        array = array.transpose(step.perm) if step.perm else array.reshape(step.shape)
        assert array.ndim == 4
    np.testing.assert_array_equal(array, expected)
    np.testing.assert_array_equal(move_array(values.reshape(sizes(source)), source, target), expected)


def test_equal_layouts_need_no_step_and_equal_orders_no_transpose() -> None:
    c, h, w = Atom(3), Atom(4), Atom(5)
    assert steps(((), (c,), (h,), (w,)), ((), (c,), (h,), (w,))) == []
    (only,) = steps(((), (c,), (h,), (w,)), ((), (c,), (), (h, w)))
    assert only.shape == (1, 3, 1, 20) and not only.perm
    (only,) = steps(((), (c,), (), (h,)), ((), (h,), (), (c,)))
    assert only.perm and not only.shape, "one Transpose swaps channels and tokens"


@given(st.lists(st.sampled_from([2, 3, 4, 6]), min_size=1, max_size=4), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_regroup_splits_like_reshape_or_returns_none(factors: list[int], rng: object) -> None:
    atoms: Atoms = tuple(Atom(n) for n in factors)
    total = math.prod(factors)
    for shape in ([total], [1, total, 1], factors[::-1], [2, total // 2]):
        if math.prod(shape) != total:
            continue
        found = regroup(atoms, shape)
        if found is None:
            continue
        axes, splits = found
        assert sizes(axes) == list(shape)
        assert flat(axes) == substitute(atoms, splits), "the order of values is unchanged"


def test_factors_that_do_not_divide_each_other_have_no_refinement() -> None:
    assert refinement([(Atom(3), Atom(4)), (Atom(4), Atom(3))]) is None
    assert refinement([(Atom(3), Atom(4)), (Atom(12),), (Atom(3), Atom(2), Atom(2))]) == [3, 2, 2]
    assert regroup((Atom(3), Atom(4)), [4, 3]) is None
