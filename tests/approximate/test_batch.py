"""Approximations of a graph with a batch of two equal those of one image."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from bpudeploy.approximate.drop import drop_blocks
from bpudeploy.approximate.gelu import approximate_gelu
from bpudeploy.approximate.heads import prune_heads
from bpudeploy.approximate.linear import Activations, linear_blocks
from bpudeploy.approximate.parallel import parallel_blocks
from bpudeploy.approximate.tokens import reduce_tokens
from bpudeploy.host import open_session, open_with_outputs
from bpudeploy.restructure.edit import editable_graph
from bpudeploy.restructure.export import network_of_module
from bpudeploy.restructure.graph import Graph
from bpudeploy.restructure.rewrite import Rewritten, rewrite
from bpudeploy.spec.approximate import GeluForm
from tests.approximate.conftest import MakeExact, close, finish, logits

CHANGES: dict[str, Callable[[Graph, Activations], str]] = {
    "drop": lambda g, _: drop_blocks(g, [1]),
    "linear": lambda g, seen: linear_blocks(g, [(1, 2)], seen),
    "parallel": lambda g, _: parallel_blocks(g, [(1, 2)]),
    "tokens": lambda g, _: reduce_tokens(g, 1, 2),
    "heads": lambda g, seen: prune_heads(g, 0.25, (), seen),
    "gelu": lambda g, _: approximate_gelu(g, GeluForm.QUICK),
}


@pytest.fixture(scope="module")
def pair(exact: MakeExact) -> Rewritten:
    """Return the same network with a batch of two."""
    return rewrite(network_of_module(copy.deepcopy(exact().torch), (2, 3, *exact().size())))


@pytest.mark.parametrize("name", CHANGES)
def test_a_batch_of_two(exact: MakeExact, pair: Rewritten, name: str) -> None:
    e, seen = exact(), exact().images(4, seed=3)

    def by_two(names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        session = open_with_outputs(pair.model, names)
        for i in (0, 2):
            yield dict(zip(names, session.run(list(names), {"pixels": seen[i : i + 2]}), strict=True))

    one, two = e.graph(), editable_graph(pair.model, pair.keep_float)
    summaries = CHANGES[name](one, e.activations(seen)), CHANGES[name](two, by_two)
    assert summaries[0] == summaries[1]
    session = open_session(finish(two).SerializeToString())
    both = session.run(None, {"pixels": e.images(2)})[0].reshape(2, -1)
    tolerance = 1e-3 if name == "linear" else 1e-5  # a regression on two float32 streams
    assert close(both, logits(finish(one), e.images(2)), tolerance)
    assert np.ptp(both) > 0
