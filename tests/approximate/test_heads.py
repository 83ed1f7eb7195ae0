"""prune_heads: removed heads are replaced by their mean, least important first, and weights shrink."""

from __future__ import annotations

from typing import Any

import pytest

from bpudeploy.approximate.heads import prune_heads
from bpudeploy.errors import StageError
from tests.approximate.conftest import Exact, MakeExact, close, cost, finish, logits, parameters

HEADS, SIZE = 3, 64


def blocks_of(model: Any) -> list[Any]:
    """Return the blocks of a torch ViT or Swin."""
    return list(model.blocks) if hasattr(model, "blocks") else [b for layer in model.layers for b in layer.blocks]


def outputs(e: Exact, images: Any) -> list[Any]:
    """Return the input of each block's projection in torch, (tokens, channels), float64.

    For a ViT's last block only the class token, as in the rewrite.
    """
    import torch

    blocks = blocks_of(e.torch)
    caught: list[list[Any]] = [[] for _ in blocks]
    hooks = [
        b.attn.proj.register_forward_pre_hook(lambda _, args, i=i: caught[i].append(args[0].flatten(0, -2)))
        for i, b in enumerate(blocks)
    ]
    with torch.inference_mode():
        for image in images:
            e.torch(torch.from_numpy(image[None]))
    for hook in hooks:
        hook.remove()
    if hasattr(e.torch, "blocks"):
        caught[-1] = [t[:1] for t in caught[-1]]
    return [torch.cat(t).double().numpy() for t in caught]


def without(e: Exact, gone: list[tuple[int, int]], images: Any, size: int = SIZE) -> Any:
    """Return a function that replaces these heads of a torch model by their mean."""
    import torch

    means = [o.mean(axis=0) for o in outputs(e, images)]

    def change(model: Any) -> None:
        for block, head in gone:
            part = slice(head * size, (head + 1) * size)
            mean = torch.from_numpy(means[block][part]).float()

            def hook(_: Any, args: Any, part: slice = part, mean: Any = mean) -> Any:
                x = args[0].clone()
                x[..., part] = mean
                return (x,)

            blocks_of(model)[block].attn.proj.register_forward_pre_hook(hook)

    return change


@pytest.mark.parametrize("gone", [[(1, 2)], [(3, 1)], [(0, 1), (2, 0), (2, 2)]])
def test_named_heads_are_replaced_by_their_mean(exact: MakeExact, gone: list[tuple[int, int]]) -> None:
    e, seen = exact(), exact().images(5, seed=4)
    graph = e.graph()
    message = prune_heads(graph, None, gone, e.activations(seen))
    assert message.startswith(f"{len(gone)} of {HEADS * len({b for b, _ in gone})} heads removed")
    model = finish(graph)
    assert close(logits(model, e.images()), e.expected(without(e, gone, seen)))
    assert parameters(e.model) - parameters(model) >= len(gone) * 4 * 192 * SIZE - 192 * len(gone)
    assert cost(model) < cost(e.model)


def test_the_least_important_heads_are_removed_first(exact: MakeExact) -> None:
    e, seen = exact(), exact().images(5, seed=4)
    scores = []
    for i, rows in enumerate(outputs(e, seen)):
        weight = e.torch.blocks[i].attn.proj.weight.detach().double().numpy()
        weight = weight - weight.mean(axis=0)
        for head in range(HEADS):
            part = slice(head * SIZE, (head + 1) * SIZE)
            lost = ((rows[:, part] - rows[:, part].mean(axis=0)) @ weight[:, part].T) ** 2
            scores.append((lost.sum(), i, head))
    power = _power(e, seen)
    order = sorted((lost / power[i], i, head) for lost, i, head in scores)
    best = [max(r for r in order if r[1] == i) for i in range(4)]
    expected = sorted((i, head) for _, i, head in [r for r in order if r not in best][:3])
    message = prune_heads(e.graph(), 0.25, (), e.activations(seen))
    assert f"3 of 12 heads removed (block.head {', '.join(f'{b}.{h}' for b, h in expected)})" in message


def _power(e: Exact, images: Any) -> list[float]:
    """Return Σ|x'|² of the centred stream after each attention."""
    import torch

    caught: list[list[Any]] = [[] for _ in e.torch.blocks]
    hooks = [
        b.norm2.register_forward_pre_hook(lambda _, args, i=i: caught[i].append(args[0][0]))
        for i, b in enumerate(e.torch.blocks)
    ]
    with torch.inference_mode():
        for image in images:
            e.torch(torch.from_numpy(image[None]))
    for hook in hooks:
        hook.remove()
    caught[-1] = [t[:1] for t in caught[-1]]
    return [sum(float(((t - t.mean(dim=1, keepdim=True)).double() ** 2).sum()) for t in ts) for ts in caught]


def test_each_block_keeps_one_head(exact: MakeExact) -> None:
    e = exact()
    graph = e.graph()
    assert prune_heads(graph, 0.66, (), e.activations(e.images(2))).startswith("8 of 12")
    finish(graph)
    with pytest.raises(StageError, match="is 11 heads, and 8 can be removed"):
        prune_heads(e.graph(), 0.9, (), e.activations(e.images(1)))


def test_heads_of_window_attention_with_relative_positions(exact: MakeExact) -> None:
    e = exact("swin_tiny_patch4_window7_224", img_size=224, depths=(1, 2), num_heads=(3, 6))
    graph, gone, seen = e.graph(), [(1, 4), (2, 0), (0, 2)], e.images(2, seed=4)
    prune_heads(graph, None, gone, e.activations(seen))
    model = finish(graph)
    assert close(logits(model, e.images()), e.expected(without(e, gone, seen, size=32)))
    assert cost(model) < cost(e.model)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ([(0, 3)], "names head 3 of block 0, which has 3"),
        ([(0, 0), (0, 1), (0, 2)], "names all heads of block 0"),
        ([(7, 0)], "names block 7, and the graph has blocks 0 to 3"),
    ],
)
def test_heads_that_cannot_be_removed_are_errors(exact: MakeExact, gone: list[tuple[int, int]], message: str) -> None:
    e = exact()
    with pytest.raises(StageError, match=message):
        prune_heads(e.graph(), None, gone, e.activations(e.images(1)))


def test_a_network_without_softmax_is_an_error(exact: MakeExact) -> None:
    e = exact("mixer_s32_224", img_size=64)
    with pytest.raises(StageError, match="no block has an attention"):
        prune_heads(e.graph(), 0.5, (), e.activations(e.images(1)))
    with pytest.raises(StageError, match="has 0 softmaxes"):
        prune_heads(e.graph(), None, [(0, 0)], e.activations(e.images(1)))
