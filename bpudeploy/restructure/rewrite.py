"""The rewrite: fuse patterns, lower the network to 4-D, apply the exact rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpudeploy.restructure.fuse_patterns import fuse_patterns
from bpudeploy.restructure.graph import Counterpart, Graph, TensorView
from bpudeploy.restructure.lower.dispatch import lower
from bpudeploy.restructure.network import Network
from bpudeploy.restructure.rules.biases import drop_key_biases, move_value_biases
from bpudeploy.restructure.rules.centre import centre
from bpudeploy.restructure.rules.dead import remove_dead
from bpudeploy.restructure.rules.merge_equal import merge_equal_nodes
from bpudeploy.restructure.rules.moves import merge_moves
from bpudeploy.restructure.rules.narrow import narrow
from bpudeploy.restructure.rules.protect import protect_squares
from bpudeploy.restructure.rules.scale import fold_scales
from bpudeploy.restructure.rules.tokens import prepare_tokens
from bpudeploy.restructure.write import to_onnx

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class TensorMap:
    """How tensors of the rewritten network map to the original's; without weights.

    ``outputs`` and ``counterparts`` (tensors that must be equal) are in the original's order; tensors in ``centred``
    are equal up to their mean over axis 1.
    """

    outputs: tuple[TensorView, ...]
    counterparts: tuple[Counterpart, ...]
    centred: frozenset[str]


@dataclass(frozen=True, eq=False)
class Rewritten:
    """The rewritten model, the nodes inside norms (``keep_float``), and how often each rule applied."""

    model: onnx.ModelProto
    tensor_map: TensorMap
    keep_float: tuple[str, ...]
    applied: dict[str, int]


def rewrite(network: Network) -> Rewritten:
    """Return the exact 4-D form of ``network``: opset 11, static shapes, the same weights.

    The original's weights are freed along the way if the caller keeps no reference to network or module.

    Raises:
        StageError: an operation has no 4-D form; the message names it and the reason.
    """
    graph = lower(fuse_patterns(network))
    del network
    applied = simplify(graph)
    keep_float = graph.keep_float
    model = to_onnx(graph)
    tensor_map = TensorMap(tuple(graph.outputs), tuple(graph.counterparts), frozenset(graph.centred))
    return Rewritten(model, tensor_map, keep_float, applied)


RULES: tuple[tuple[str, Callable[[Graph], int]], ...] = (
    ("dead", remove_dead),
    ("share", merge_equal_nodes),
    ("moves", merge_moves),
    ("narrow", narrow),
    ("tokens", prepare_tokens),
    ("scale", fold_scales),
    ("key biases", drop_key_biases),
    ("value biases", move_value_biases),
    ("centre", centre),
    ("protect", protect_squares),
    ("dead", remove_dead),
    ("share", merge_equal_nodes),
    ("moves", merge_moves),
    ("dead", remove_dead),
)
"""In order of application; one pass suffices, as no rule creates work for an earlier one."""


def simplify(graph: Graph) -> dict[str, int]:
    """Apply every rule; return how often each applied."""
    applied: dict[str, int] = {}
    for name, rule in RULES:
        applied[name] = applied.get(name, 0) + rule(graph)
    return applied
