"""From a workload to predicted milliseconds: amounts times rates, with an interval and what bounds it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from math import exp, sqrt
from typing import Literal, NamedTuple

from bpudeploy.conformance.report import Form
from bpudeploy.predict.march import MarchModel, Term
from bpudeploy.predict.work import Work, Workload
from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.precision import Precision, PrecisionRules
from bpudeploy.spec.target import March


class Covers(NamedTuple):
    """How many published figures an interval is to hold, and how many standard deviations that is."""

    share: float
    deviations: float


COVERS = Covers(0.9, 1.645)


class Width(StrEnum):
    """In which number formats the network is priced."""

    INT8 = "all int8"
    RULES = "by the rules"  # int8 into products but what the recipe names, elsewhere as the march computes
    INT16 = "all int16"  # wherever the march has it


class Bound(StrEnum):
    """What most of the predicted time goes to."""

    COMPUTE = "compute"
    MEMORY = "memory"
    LAYOUT = "layout"
    CPU = "CPU fallback"
    OVERHEAD = "overhead"  # starting instructions, handing numbers to the program


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
_WIDENED = (Term.ELEMENTWISE, Term.LAYOUT, Term.ATTENTION)


class NodeTime(Frozen):
    """One node's share of the prediction."""

    name: str
    op: str
    on_bpu: bool
    predicted_ms: float


class Estimate(Frozen):
    """A predicted latency of one frame, single stream, performance mode. Nothing in it was measured."""

    provenance: Literal["predicted"] = "predicted"
    march: March
    board: str
    form: Form
    width: Width
    predicted_ms: float
    predicted_low_ms: float
    predicted_high_ms: float
    """The interval that is to hold nine of ten networks' published latencies."""
    bound: Bound
    by_bound_ms: dict[Bound, float]
    by_term_ms: dict[Term, float]
    nodes: tuple[NodeTime, ...]
    """Every node that costs anything, the dearest first."""
    segments: int
    cpu_nodes: int
    basis: str


def price(
    work: Workload,
    model: MarchModel,
    rules: PrecisionRules,
    width: Width = Width.RULES,
    promoted: Collection[str] = (),
) -> Estimate:
    """Return the predicted latency of ``work``.

    Args:
        rules: which number formats the march has and what int16 costs; read for ``RULES`` and ``INT16``.
        promoted: products that read int16 though ``width`` does not say so, by their nodes' names.
    """
    assert work.march is model.march
    each = [(n, _times(n, model, factors(n, rules, Width.INT16 if n.name in promoted else width))) for n in work.nodes]
    terms = {t: sum(times.get(t, 0.0) for _, times in each) for t in Term}
    total = total_of(terms, model)
    nodes = [
        NodeTime(name=n.name, op=n.op, on_bpu=n.on_bpu, predicted_ms=sum(times.values())) for n, times in each if times
    ]
    return Estimate(
        march=model.march,
        board=model.board,
        form=work.form,
        width=width,
        predicted_ms=total.predicted_ms,
        predicted_low_ms=total.predicted_low_ms,
        predicted_high_ms=total.predicted_high_ms,
        bound=max(total.by_bound_ms, key=lambda b: total.by_bound_ms[b]),
        by_bound_ms=total.by_bound_ms,
        by_term_ms=terms,
        nodes=tuple(sorted(nodes, key=lambda n: -n.predicted_ms)),
        segments=work.segments,
        cpu_nodes=sum(not n.on_bpu for n in work.nodes),
        basis=model.basis,
    )


class Total(NamedTuple):
    """The sum of a network's times, with the interval of ``Estimate``."""

    predicted_ms: float
    predicted_low_ms: float
    predicted_high_ms: float
    by_bound_ms: dict[Bound, float]


def total_of(times: Mapping[Term, float], model: MarchModel) -> Total:
    """Return what a network takes whose terms take ``times``, in ms."""
    total, z = sum(times.values()), z_of(model.residual, times, model.spread)
    bounds = {b: sum(ms for t, ms in times.items() if _BOUNDS[t] is b) for b in Bound}
    return Total(total, total * exp(-z), total * exp(z), bounds)


def z_of(residual: float, times: Mapping[Term, float], spread: Mapping[Term, float]) -> float:
    """Return half the width of the interval, in log: the residual, and each rate's own error by its share of time."""
    total = sum(times.values())
    rates = sum((ms / total * spread[t]) ** 2 for t, ms in times.items()) if total else 0.0
    return COVERS.deviations * sqrt(residual**2 + rates)


def _times(work: Work, model: MarchModel, factors: Mapping[Term, float]) -> dict[Term, float]:
    return {t: amount * model.rates[t] * factors.get(t, 1.0) for t, amount in work.amounts.items()}


def factors(work: Work, rules: PrecisionRules, width: Width) -> dict[Term, float]:
    """Return by how much each term of a node takes longer than in int8."""
    if width is Width.INT8 or not work.on_bpu:
        return {}
    cost, wide = rules.int16_cost, {}
    if work.product is not None:
        if width is Width.INT16 and Precision.INT16 in rules.allowed(work.product):
            wide = {Term.COMPUTE: cost.products, Term.ATTENTION: cost.elementwise}
        return wide
    if rules.elsewhere is Precision.INT16 and (width is Width.INT16 or not work.feeds_product):
        return dict.fromkeys(_WIDENED, cost.elementwise)
    return {}
