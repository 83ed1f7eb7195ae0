"""The whole rewrite: lower a network to 4-D, then the exact rules until nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpudeploy.restructure.graph import Graph, Output, Twin
from bpudeploy.restructure.imported import Network
from bpudeploy.restructure.lower.table import lower
from bpudeploy.restructure.recognise import recognise
from bpudeploy.restructure.rules.biases import drop_key_biases, move_value_biases
from bpudeploy.restructure.rules.centre import centre
from bpudeploy.restructure.rules.dead import remove_dead
from bpudeploy.restructure.rules.moves import merge_moves
from bpudeploy.restructure.rules.narrow import narrow
from bpudeploy.restructure.rules.protect import protect_squares
from bpudeploy.restructure.rules.scale import fold_scales
from bpudeploy.restructure.rules.share import share
from bpudeploy.restructure.rules.tokens import prepare_tokens
from bpudeploy.restructure.write import to_onnx

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Reading:
    """How to read a rewritten network; it holds no weights.

    ``outputs`` are the network's, in its order. ``twins`` are tensors of both networks that must be equal,
    in the network's order; those in ``centred`` are equal but for their mean over axis 1.
    """

    outputs: tuple[Output, ...]
    twins: tuple[Twin, ...]
    centred: frozenset[str]


@dataclass(frozen=True, eq=False)
class Rewritten:
    """The new model. ``keep_float`` are the nodes inside norms; ``applied`` counts what each rule did."""

    model: onnx.ModelProto
    reading: Reading
    keep_float: tuple[str, ...]
    applied: dict[str, int]


def rewrite(network: Network) -> Rewritten:
    """Return the exact 4-D form of ``network``: opset 11, static shapes, weights inherited.

    Memory: the original's weights are let go on the way if the caller holds neither network nor module.

    Raises:
        StageError: naming the operation that has no 4-D form, and why.
    """
    graph = lower(recognise(network))
    del network
    applied = simplify(graph)
    keep_float = tuple(node.name for node in graph.nodes.values() if node.keep_float)
    model = to_onnx(graph)
    reading = Reading(tuple(graph.outputs), tuple(graph.twins), frozenset(graph.centred))
    return Rewritten(model, reading, keep_float, applied)


RULES: tuple[tuple[str, Callable[[Graph], int]], ...] = (
    ("dead", remove_dead),
    ("share", share),
    ("moves", merge_moves),
    ("narrow", narrow),
    ("tokens", prepare_tokens),
    ("scale", fold_scales),
    ("key biases", drop_key_biases),
    ("value biases", move_value_biases),
    ("centre", centre),
    ("protect", protect_squares),
    ("dead", remove_dead),
    ("share", share),
    ("moves", merge_moves),
    ("dead", remove_dead),
)
"""In the order in which they are applied: each once is enough, none makes work for an earlier one."""


def simplify(graph: Graph) -> dict[str, int]:
    """Apply every rule; return how often each did."""
    applied: dict[str, int] = {}
    for name, rule in RULES:
        applied[name] = applied.get(name, 0) + rule(graph)
    return applied
