"""Blocks are found by structure in several model families; drop_blocks."""

from __future__ import annotations

from typing import Any

import pytest

from bpudeploy.approximate.blocks import find_blocks
from bpudeploy.approximate.drop import drop_blocks
from bpudeploy.errors import StageError
from tests.approximate.conftest import MakeExact, close, cost, finish, logits, parameters


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("vit_tiny_patch16_224", {"img_size": 64, "depth": 4, "num_classes": 5}, 4),
        ("vit_tiny_patch16_224", {"img_size": 64, "depth": 3, "num_classes": 5, "global_pool": "avg"}, 3),
        (
            "vit_small_patch14_reg4_dinov2",
            {"img_size": 28, "depth": 2, "embed_dim": 96, "num_heads": 3, "num_classes": 5},
            2,
        ),
        ("swin_tiny_patch4_window7_224", {"img_size": 224, "depths": (1, 2), "num_heads": (3, 6)}, 3),
        ("mixer_s32_224", {"img_size": 64}, 8),
    ],
)
def test_blocks_are_found_by_structure(exact: MakeExact, name: str, options: dict[str, Any], count: int) -> None:
    assert list(find_blocks(exact(name, **options).graph())) == list(range(count))


@pytest.mark.parametrize("dropped", [(0,), (1, 2), (3,), (0, 3)])
def test_a_dropped_block_is_removed(exact: MakeExact, dropped: tuple[int, ...]) -> None:
    e = exact()

    def delete(model: Any) -> None:
        for i in reversed(dropped):
            del model.blocks[i]

    graph = e.graph()
    assert drop_blocks(graph, dropped) == f"blocks {', '.join(map(str, dropped))} of 4 removed"
    model = finish(graph)
    assert close(logits(model, e.images()), e.expected(delete))
    assert parameters(model) < parameters(e.model) and cost(model) < cost(e.model)
    assert len(model.graph.node) < len(e.model.graph.node)


def test_blocks_keep_their_original_numbers(exact: MakeExact) -> None:
    graph = exact().graph()
    drop_blocks(graph, [1])
    assert list(find_blocks(graph, absent=[1])) == [0, 2, 3]


@pytest.mark.parametrize("dropped", [(4,), (0, 9)])
def test_a_missing_block_is_an_error(exact: MakeExact, dropped: tuple[int, ...]) -> None:
    with pytest.raises(StageError, match=f"names block {dropped[-1]}, and the graph has blocks 0 to 3"):
        drop_blocks(exact().graph(), dropped)


def test_dropping_all_blocks_is_an_error(exact: MakeExact) -> None:
    with pytest.raises(StageError, match="all 4 blocks"):
        drop_blocks(exact().graph(), range(4))


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_a_network_without_blocks_is_an_error_that_lists_its_operators(exact: MakeExact, name: str) -> None:
    with pytest.raises(StageError, match=r"no transformer blocks: \d+ residual additions.*operators: .*Conv") as caught:
        drop_blocks(exact(name, num_classes=5).graph(), [0])
    assert caught.value.hint is not None and "for transformers" in caught.value.hint
