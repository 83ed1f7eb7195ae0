"""Latency estimate of a workload: amounts times rates, with a prediction interval and the bottleneck."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from math import exp, sqrt
from typing import Literal, NamedTuple

from bpudeploy.conformance.report import Form
from bpudeploy.predict.march import MarchModel, Term
from bpudeploy.predict.workload import NodeWorkload, Workload
from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.precision import Precision, PrecisionRules
from bpudeploy.spec.target import March

COVERAGE = 0.9
"""Nominal fraction of published latencies inside the prediction interval."""
COVERAGE_SIGMAS = 1.645
"""Half the width of that interval in standard deviations."""


class PrecisionMode(StrEnum):
    """The precisions that an estimate assumes."""

    INT8 = "all int8"
    RULES = "by the rules"  # products read int8 except for those named by the recipe; elsewhere as the march computes
    INT16 = "all int16"  # wherever the march supports it


class Bound(StrEnum):
    """What takes most of the predicted time."""

    COMPUTE = "compute"
    MEMORY = "memory"
    LAYOUT = "layout"
    CPU = "CPU fallback"
    OVERHEAD = "overhead"  # starting instructions, returning outputs


_BOUNDS = {
    Term.COMPUTE: Bound.COMPUTE,
    Term.WEIGHTS: Bound.MEMORY,
    Term.ELEMENTWISE: Bound.MEMORY,
    Term.ATTENTION: Bound.MEMORY,
    Term.LAYOUT: Bound.LAYOUT,
    Term.INSTRUCTIONS: Bound.OVERHEAD,
    Term.OUTPUT: Bound.OVERHEAD,
    Term.CPU_BYTES: Bound.CPU,
    Term.CPU_MACS: Bound.CPU,
    Term.HANDOVER: Bound.CPU,
}
_INT16_TERMS = (Term.ELEMENTWISE, Term.LAYOUT, Term.ATTENTION)


class NodeTime(Frozen):
    """One node's share of the prediction."""

    name: str
    op: str
    on_bpu: bool
    predicted_ms: float


class Estimate(Frozen):
    """The predicted latency of one frame: single stream, performance mode. Nothing was measured."""

    provenance: Literal["predicted"] = "predicted"
    march: March
    board: str
    form: Form
    width: PrecisionMode
    predicted_ms: float
    predicted_low_ms: float
    predicted_high_ms: float
    """The 90 % prediction interval for published latencies."""
    bound: Bound
    by_bound_ms: dict[Bound, float]
    by_term_ms: dict[Term, float]
    nodes: tuple[NodeTime, ...]
    """Every node with a cost, the most expensive first."""
    segments: int
    cpu_nodes: int
    basis: str


def estimate_latency(
    workload: Workload,
    model: MarchModel,
    rules: PrecisionRules,
    mode: PrecisionMode = PrecisionMode.RULES,
    promoted: Collection[str] = (),
) -> Estimate:
    """Return the predicted latency of ``workload``.

    Args:
        rules: the precisions of the march and the cost of int16; used for ``RULES`` and ``INT16``.
        promoted: names of products that read int16 even if ``mode`` says otherwise.
    """
    assert workload.march is model.march
    each = []
    for node in workload.nodes:
        factors = int16_factors(node, rules, PrecisionMode.INT16 if node.name in promoted else mode)
        each.append((node, {t: a * model.rates[t] * factors.get(t, 1.0) for t, a in node.amounts.items()}))
    terms = {t: sum(times.get(t, 0.0) for _, times in each) for t in Term}
    total = total_latency(terms, model)
    nodes = [
        NodeTime(name=n.name, op=n.op, on_bpu=n.on_bpu, predicted_ms=sum(times.values())) for n, times in each if times
    ]
    return Estimate(
        march=model.march,
        board=model.board,
        form=workload.form,
        width=mode,
        **total._asdict(),
        bound=max(total.by_bound_ms, key=lambda b: total.by_bound_ms[b]),
        by_term_ms=terms,
        nodes=tuple(sorted(nodes, key=lambda n: -n.predicted_ms)),
        segments=workload.segments,
        cpu_nodes=sum(not n.on_bpu for n in workload.nodes),
        basis=model.basis,
    )


class TotalLatency(NamedTuple):
    """The latency of a network, with the interval of ``Estimate``."""

    predicted_ms: float
    predicted_low_ms: float
    predicted_high_ms: float
    by_bound_ms: dict[Bound, float]


def total_latency(times: Mapping[Term, float], model: MarchModel) -> TotalLatency:
    """Return the latency of a network whose terms take ``times``, in ms."""
    total, half = sum(times.values()), log_half_width(model.residual, times, model.spread)
    bounds = {b: sum(ms for t, ms in times.items() if _BOUNDS[t] is b) for b in Bound}
    return TotalLatency(total, total * exp(-half), total * exp(half), bounds)


def log_half_width(residual: float, times: Mapping[Term, float], spread: Mapping[Term, float]) -> float:
    """Return half the interval's width in log: the residual and the errors of the rates, weighted by time share."""
    total = sum(times.values())
    rates = sum((ms / total * spread[t]) ** 2 for t, ms in times.items()) if total else 0.0
    return COVERAGE_SIGMAS * sqrt(residual**2 + rates)


def int16_factors(node: NodeWorkload, rules: PrecisionRules, mode: PrecisionMode) -> dict[Term, float]:
    """Return the slowdown of each term of a node compared with int8; terms without one are omitted."""
    if mode is PrecisionMode.INT8 or not node.on_bpu:
        return {}
    cost = rules.int16_cost
    if node.product is not None:
        wide = mode is PrecisionMode.INT16 and Precision.INT16 in rules.allowed(node.product)
        return {Term.COMPUTE: cost.products, Term.ATTENTION: cost.elementwise} if wide else {}
    if rules.elsewhere is Precision.INT16 and (mode is PrecisionMode.INT16 or not node.feeds_product):
        return dict.fromkeys(_INT16_TERMS, cost.elementwise)
    return {}
