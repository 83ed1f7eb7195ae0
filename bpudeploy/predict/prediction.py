"""The prediction for one network on one board: latency, bottleneck, cost of int16, gain of the restructuring."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from bpudeploy.predict.estimate import Estimate, PrecisionMode, estimate_latency
from bpudeploy.predict.march import MarchModel
from bpudeploy.predict.workload import Workload
from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.precision import Precision, PrecisionRules
from bpudeploy.spec.target import Target


class Prediction(Frozen):
    """One network on one target. Everything is predicted; nothing was measured."""

    provenance: Literal["predicted"] = "predicted"
    model: str
    origin: str
    target: str
    restructured: tuple[Estimate, ...]
    """The restructured 4-D form: first by the rules of target and recipe, then all int8, and all int16 if supported."""
    original: Estimate
    """The exported graph by the target's rules, with softmax on the BPU if possible."""
    predicted_speedup: float
    """Original over restructured latency, both by the rules."""
    compiler_estimate: float | None = None
    """Milliseconds, by the compiler: the restructured form, laid out, all int8, BPU only; None if it was not asked."""
    compiler_cpu_nodes: int | None = None


def predict(
    name: str,
    origin: str,
    target: Target,
    model: MarchModel,
    restructured: Workload,
    original: Workload,
    promoted: Collection[str] = (),
) -> Prediction:
    """Predict the latency of both forms of a network, in every precision mode of the march.

    Args:
        promoted: nodes of the restructured form that read int16 because of the recipe's ``quantize.int16``.
    """
    rules = target.precision
    forms = tuple(
        estimate_latency(restructured, model, rules, mode, promoted if mode is PrecisionMode.RULES else ())
        for mode in precision_modes(rules)
    )
    before = estimate_latency(original, model, rules)
    return Prediction(
        model=name,
        origin=origin,
        target=target.name,
        restructured=forms,
        original=before,
        predicted_speedup=before.predicted_ms / forms[0].predicted_ms,
    )


def precision_modes(rules: PrecisionRules) -> tuple[PrecisionMode, ...]:
    """Return the modes that differ on a march, the target's rules first."""
    wide = rules.elsewhere is Precision.INT16 or Precision.INT16 in (*rules.conv, *rules.matmul)
    return (PrecisionMode.RULES, PrecisionMode.INT8, PrecisionMode.INT16) if wide else (PrecisionMode.RULES,)
