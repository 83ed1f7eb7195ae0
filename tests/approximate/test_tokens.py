"""reduce_tokens: the grid is pooled as in torch, later nodes shrink, and unsupported networks are errors."""

from __future__ import annotations

from typing import Any

import pytest

from bpudeploy.approximate.tokens import reduce_tokens
from bpudeploy.errors import StageError
from bpudeploy.restructure.edit import editable_graph
from tests.approximate.conftest import MakeExact, close, cost, finish, logits


def pooled(after: int, factor: int) -> Any:
    """Return a function that makes a torch model pool its patch tokens after a block."""
    import torch

    def change(model: Any) -> None:
        def hook(_: Any, args: Any, x: Any) -> Any:
            prefix, (height, width) = model.num_prefix_tokens, model.patch_embed.grid_size
            grid = x[:, prefix:].transpose(1, 2).reshape(1 * len(x), -1, height, width)
            grid = torch.nn.functional.avg_pool2d(grid, factor)
            return torch.cat([x[:, :prefix], grid.flatten(2).transpose(1, 2)], dim=1)

        model.blocks[after].register_forward_hook(hook)

    return change


VITS: list[tuple[str, dict[str, Any]]] = [
    ("vit_tiny_patch16_224", {"img_size": 64, "depth": 4, "num_classes": 5}),
    ("vit_tiny_patch16_224", {"img_size": 64, "depth": 3, "num_classes": 5, "global_pool": "avg"}),
    ("vit_small_patch14_reg4_dinov2", {"img_size": 56, "depth": 3, "embed_dim": 96, "num_heads": 3, "num_classes": 5}),
    ("vit_base_patch32_clip_224", {"img_size": 64, "depth": 2, "embed_dim": 96, "num_heads": 3, "num_classes": 5}),
    ("vit_base_patch16_siglip_224", {"img_size": 64, "depth": 3, "embed_dim": 96, "num_heads": 3, "num_classes": 5}),
]


@pytest.mark.parametrize(
    ("name", "options"), VITS, ids=["cls", "average", "registers", "pre-norm", "no cls, attention pool"]
)
@pytest.mark.parametrize("after", [0, 1])
def test_patch_tokens_are_pooled(exact: MakeExact, name: str, options: dict[str, Any], after: int) -> None:
    e = exact(name, **options)
    graph = e.graph()
    if after == options["depth"] - 1:
        with pytest.raises(StageError):
            reduce_tokens(graph, after, 2)
        return
    assert f"after block {after}" in reduce_tokens(graph, after, 2)
    model = finish(graph)
    assert close(logits(model, e.images()), e.expected(pooled(after, 2)))
    assert cost(model) < cost(e.model)


def test_a_factor_of_four_leaves_one_patch(exact: MakeExact) -> None:
    e = exact()
    graph = e.graph()
    assert reduce_tokens(graph, 1, 4) == "4 x 4 patch tokens become 1 x 1 after block 1; 1 other tokens kept"
    model = finish(graph)
    assert close(logits(model, e.images()), e.expected(pooled(1, 4)))
    softmaxes = [n.shape for n in editable_graph(model).nodes.values() if n.op == "Softmax"]
    assert {s[2:] for s in softmaxes[:2]} == {(17, 17)} and softmaxes[2][2:] == (2, 2)


def test_an_invalid_factor_is_an_error_that_lists_valid_ones(exact: MakeExact) -> None:
    with pytest.raises(StageError, match="3 does not divide the grid of 4 x 4") as caught:
        reduce_tokens(exact().graph(), 0, 3)
    assert caught.value.hint == "valid factors: 2, 4"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "beit_base_patch16_224",
            {"img_size": 64, "depth": 2, "embed_dim": 96, "num_heads": 3},
            "an entry per token|depends on the number",
        ),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 224, "depths": (1, 2), "num_heads": (3, 6)},
            "no patch conv|windows",
        ),
        ("mixer_s32_224", {"img_size": 64}, "its weights mix tokens"),
    ],
)
def test_networks_that_depend_on_the_number_of_tokens_are_errors(
    exact: MakeExact, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(StageError, match=message):
        reduce_tokens(exact(name, **options).graph(), 0, 2)
