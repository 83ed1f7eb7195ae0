"""What a user asks before buying compute: how long, bound by what, what int16 costs, what the rewrite gains."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from bpudeploy.predict.march import MarchModel
from bpudeploy.predict.price import Estimate, Width, price
from bpudeploy.predict.work import Workload
from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.precision import Precision, PrecisionRules
from bpudeploy.spec.target import Target


class Answer(Frozen):
    """One network on one target. Everything in it is predicted; nothing was measured."""

    provenance: Literal["predicted"] = "predicted"
    model: str
    origin: str
    target: str
    restructured: tuple[Estimate, ...]
    """Our 4-D form: by the rules of target and recipe first, then all int8, and all int16 where the march has it."""
    original: Estimate
    """The graph as exported, by the target's rules, compiled with softmax on the BPU too where it can be."""
    predicted_speedup: float
    """How many times as fast the restructured form is predicted to be; both by the rules."""


def answer(
    name: str,
    origin: str,
    target: Target,
    model: MarchModel,
    restructured: Workload,
    original: Workload,
    promoted: Collection[str] = (),
) -> Answer:
    """Price both forms of a network in every number format that the march has.

    Args:
        promoted: products of the restructured form that read int16 by the recipe's ``quantize.int16``.
    """
    rules = target.precision
    forms = tuple(price(restructured, model, rules, w, promoted if w is Width.RULES else ()) for w in widths(rules))
    before = price(original, model, rules, Width.RULES)
    return Answer(
        model=name,
        origin=origin,
        target=target.name,
        restructured=forms,
        original=before,
        predicted_speedup=before.predicted_ms / forms[0].predicted_ms,
    )


def widths(rules: PrecisionRules) -> tuple[Width, ...]:
    """Return the number formats that can be told apart on a march, the target's rules first."""
    wide = rules.elsewhere is Precision.INT16 or Precision.INT16 in (*rules.conv, *rules.matmul)
    return (Width.RULES, Width.INT8, Width.INT16) if wide else (Width.RULES,)
