"""parallel_blocks: the paper's formula, with shared norms and merged convolutions."""

from __future__ import annotations

from typing import Any

import pytest

from bpudeploy.approximate.blocks import find_blocks
from bpudeploy.approximate.heads import prune_heads
from bpudeploy.approximate.parallel import parallel_blocks
from bpudeploy.errors import StageError
from bpudeploy.restructure.record import count_nodes
from tests.approximate.conftest import MakeExact, close, cost, finish, logits


def in_parallel(pairs: list[tuple[int, int]]) -> Any:
    """Return a function that makes a torch model run these pairs in parallel."""
    import torch

    class Both(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, first: Any, second: Any) -> None:
            super().__init__()
            self.both = torch.nn.ModuleList([first, second])

        def forward(self, x: Any) -> Any:
            x = x + sum(b.ls1(b.attn(b.norm1(x))) for b in self.both)
            return x + sum(b.ls2(b.mlp(b.norm2(x))) for b in self.both)

    def change(model: Any) -> None:
        blocks = list(model.blocks)
        for i, j in reversed(pairs):
            blocks[i : j + 1] = [Both(blocks[i], blocks[j])]
        model.blocks = torch.nn.Sequential(*blocks)

    return change


@pytest.mark.parametrize("pairs", [[(0, 1)], [(1, 2)], [(2, 3)], [(0, 1), (2, 3)]])
def test_pairs_run_in_parallel(exact: MakeExact, pairs: list[tuple[int, int]]) -> None:
    e = exact()
    graph = e.graph()
    message = parallel_blocks(graph, pairs)
    model = finish(graph)
    assert close(logits(model, e.images()), e.expected(in_parallel(pairs)))
    assert not close(logits(model, e.images()), e.expected())
    before, after = count_nodes(e.model), count_nodes(model)
    last = (2, 3) in pairs  # the last block's attention computes one token, so its structure differs
    assert f"{2 * len(pairs) - last} of {2 * len(pairs)} branch pairs merged" in message
    assert ("not merged" in message) is last
    assert before["Erf"] - after["Erf"] == len(pairs)
    assert before["Softmax"] - after["Softmax"] == len(pairs) - last
    assert before["Sqrt"] - after["Sqrt"] == 2 * len(pairs), "norms that become equal are merged"
    assert cost(model) <= cost(e.model)
    assert len(find_blocks(graph_again := e.graph())) == 4 and graph_again is not graph


def test_a_merged_pair_is_one_block_with_its_first_number(exact: MakeExact) -> None:
    graph = exact().graph()
    parallel_blocks(graph, [(1, 2)])
    assert list(find_blocks(graph, absent=[2])) == [0, 1, 3]


def test_layer_scale_qk_norm_and_registers(exact: MakeExact) -> None:
    for name, options in (
        (
            "vit_small_patch14_reg4_dinov2",
            {"img_size": 28, "depth": 3, "embed_dim": 96, "num_heads": 3, "num_classes": 5},
        ),
        ("vit_tiny_patch16_224", {"img_size": 64, "depth": 3, "num_classes": 5, "qk_norm": True}),
    ):
        e = exact(name, **options)
        graph = e.graph()
        message = parallel_blocks(graph, [(0, 1)])
        assert close(logits(finish(graph), e.images()), e.expected(in_parallel([(0, 1)]))), message


def test_blocks_with_different_numbers_of_heads_are_merged(exact: MakeExact) -> None:
    e = exact()
    graph = e.graph()
    prune_heads(graph, None, [(0, 1)], e.activations(e.images(2)))
    alone = finish(e.graph())
    assert "2 of 2 branch pairs merged" in parallel_blocks(graph, [(0, 1)])
    model = finish(graph)
    assert cost(model) < cost(alone)


def test_blocks_that_cannot_be_paired_are_errors(exact: MakeExact) -> None:
    with pytest.raises(StageError, match="parallel_blocks names block 4"):
        parallel_blocks(exact().graph(), [(3, 4)])
    e = exact("swin_tiny_patch4_window7_224", img_size=224, depths=(1, 2), num_heads=(3, 6))
    with pytest.raises(StageError, match="the stream changes its layout or shape"):
        parallel_blocks(e.graph(), [(0, 1)])
