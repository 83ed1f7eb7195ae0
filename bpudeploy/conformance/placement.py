"""Where every node of a graph would run on a march, and why: a pure function of the graph and the op tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bpudeploy.conformance.cost import cost_of
from bpudeploy.conformance.graph import NodeView, read_graph
from bpudeploy.conformance.hints import hint_for
from bpudeploy.conformance.limits.check import SIZE_LIMITS, check_limits
from bpudeploy.conformance.measured import measured_placements
from bpudeploy.conformance.neighbours import moved_by_neighbours
from bpudeploy.conformance.report import (
    Cost,
    Device,
    DeviceTotal,
    Fix,
    Form,
    Hint,
    HintSummary,
    NodePlacement,
    Partitioning,
    Placement,
)
from bpudeploy.conformance.segments import bpu_segments
from bpudeploy.conformance.signature import UNIT_AXES_ONLY, signature
from bpudeploy.conformance.table import OpFact, OpTable, Support, op_table
from bpudeploy.onnxmodel import inputs_of, opset_of
from bpudeploy.spec.target import March

if TYPE_CHECKING:
    import onnx

MEASURED = "measured"
"""The confidence of a placement that the vendor's checker gave to such a node."""


@dataclass(frozen=True)
class CheckerPlacement:
    """Where the compiler's own checker put a model's nodes; one without a row is merged into a neighbour."""

    source: str
    """The tool and its version."""
    cpu: frozenset[str]


@dataclass(frozen=True)
class _Placed:
    """Where a node runs and why, as in ``NodePlacement``."""

    device: Device
    reason: str
    source: str
    confidence: str = MEASURED
    not_checked: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    hint: Hint | None = None


_FOLDED = _Placed(Device.FOLDED, "constant-folded: it depends on no input", "the graph", "certain")


def placement(
    model: onnx.ModelProto,
    march: March,
    constants: Collection[str] = (),
    form: Form = Form.RESTRUCTURED,
    *,
    trained: bool = True,
    checked: CheckerPlacement | None = None,
    nodes: Sequence[NodeView] | None = None,
) -> Placement:
    """Return where each node of ``model`` runs on ``march``: predicted, or as the vendor's checker reports.

    Args:
        constants: inputs of the graph that are weights, as in an export without them.
        form: for an original network, the hints mention the rewrite.
        trained: the weights in it are real; else nothing is concluded from their values.
        checked: the checker's placement of this model; it decides, and the tables only give the hints.
        nodes: those of the model, if they have been read.
    """
    if nodes is None:
        nodes = read_graph(model, constants, trained=trained)
    if march is March.CPU:
        reason = "this target has no BPU: onnxruntime runs it on the CPU"
        placed = [_FOLDED if n.folded else _Placed(Device.CPU, reason, "the target", "certain") for n in nodes]
        return _placement(nodes, placed, march, "CPU", form, ("this target has no BPU: everything runs on its CPU",))
    if not march.is_known:
        unknown = _Placed(Device.UNKNOWN, "there is no operator table of this march", "", "unknown")
        placed = [_FOLDED if n.folded else unknown for n in nodes]
        return _placement(nodes, placed, march, march, form, (f"there are no operator tables of {march}",))
    table = op_table(march)
    placed = [_place(node, table, form) for node in nodes]
    if form is Form.RESTRUCTURED and checked is None:
        placed = [_requested(p) for p in placed]
    placed = _with_neighbours(nodes, placed, table)
    if checked is None:
        findings = tuple(_model_findings(model, nodes, placed, table, constants))
        return _placement(nodes, placed, march, table.board, form, table.notes, findings)
    ours, placed = placed, [_as_checked(n, p, checked) for n, p in zip(nodes, placed, strict=True)]
    alike = sum(a.device is b.device for a, b in zip(ours, placed, strict=True))
    note = f"placed by {checked.source}; without it, inspect agrees on {alike} of {len(nodes)} nodes"
    return _placement(nodes, placed, march, table.board, form, (note,), asked=True)


def cpu_only_nodes(model: onnx.ModelProto, march: March) -> frozenset[str]:
    """Return the nodes that a BPU's compiler never puts on the BPU; none if the target has no BPU."""
    if march is March.CPU or not march.is_known:
        return frozenset()
    nodes = placement(model, march).nodes
    return frozenset(n.name for n in nodes if n.device is not Device.BPU and not n.bpu_on_request)


def _placement(
    nodes: Sequence[NodeView],
    placed: Sequence[_Placed],
    march: March,
    board: str,
    form: Form,
    notes: tuple[str, ...],
    model_findings: tuple[str, ...] = (),
    asked: bool = False,
) -> Placement:
    now = bpu_segments(nodes, [p.device is Device.BPU for p in placed])
    best = bpu_segments(nodes, [p.device in (Device.BPU, Device.UNKNOWN) for p in placed])
    every = tuple(
        NodePlacement(
            name=node.name,
            scope=node.scope,
            op=node.op,
            inputs=tuple(t.shape for t in node.features),
            outputs=tuple(t.shape for t in node.outputs),
            cost=cost_of(node),
            segment=now.segment_of.get(i),
            takes_over=min(now.crossing_inputs.get(i, 0), best.crossing_inputs.get(i, 0)),
            **vars(where),
        )
        for i, (node, where) in enumerate(zip(nodes, placed, strict=True))
    )
    return Placement(
        march=march,
        board=board,
        form=form,
        nodes=every,
        totals=_totals(every),
        cuts=Partitioning(
            segments=now.count,
            segments_at_best=best.count,
            handovers=now.handovers,
            handovers_at_best=best.handovers,
            handover_bytes=now.handover_bytes,
        ),
        model_findings=model_findings,
        helps=_hint_summaries(nodes, every),
        notes=notes,
        asked=asked,
    )


def _as_checked(node: NodeView, ours: _Placed, checked: CheckerPlacement) -> _Placed:
    """Return the checker's placement of a node, with our reason if both agree."""
    device = Device.CPU if node.name in checked.cpu else Device.BPU
    if node.folded or device is ours.device:
        return ours
    hint = ours.hint if device is Device.CPU else None
    return _Placed(device, f"the checker's own table has it on the {device}", checked.source, hint=hint)


def _requested(placed: _Placed) -> _Placed:
    """Return a node on the BPU if a compiler option puts it there: `run` sets that option."""
    if placed.hint is None or placed.hint.fix is not Fix.COMPILER_OPTION:
        return placed
    return replace(placed, device=Device.BPU, reason=f"`run` requests it: {placed.hint.text}", hint=None)


def _with_neighbours(nodes: Sequence[NodeView], placed: list[_Placed], table: OpTable) -> list[_Placed]:
    found = measured_placements(table.march)
    if not found.signatures:
        return placed
    moved = moved_by_neighbours(nodes, [p.device for p in placed], strict=table.march is March.BERNOULLI2)
    return [_Placed(*moved[i], found.source) if i in moved else p for i, p in enumerate(placed)]


def _place(node: NodeView, table: OpTable, form: Form) -> _Placed:
    if node.folded:
        return _FOLDED
    fact = table.ops.get(node.op) if node.domain == "" else None
    measured = _measured(node, fact, table, form)
    if measured is not None:
        return measured
    if fact is None:
        hint = hint_for(node, None, False, table, form)
        return _Placed(Device.UNKNOWN, _not_listed(node, table), table.general.source, "not listed", hint=hint)
    broken, unchecked = check_limits(node, fact, table)
    device, reason, parts = _decide(fact, table, broken)
    hint = None if device is Device.BPU else hint_for(node, fact, bool(broken), table, form)
    if device is Device.CPU and fact.device is Support.CPU:
        unchecked = ()  # no limit decides
    return _Placed(device, reason, fact.source, fact.confidence, (*unchecked, *parts), fact.dtypes, hint)


def _measured(node: NodeView, fact: OpFact | None, table: OpTable, form: Form) -> _Placed | None:
    """Return where the vendor's checker put nodes of this signature; None if not measured or if sizes decide."""
    found = measured_placements(table.march)
    kind = signature(node)
    if kind is None or not found.signatures:
        return None
    if UNIT_AXES_ONLY in kind:
        return _Placed(Device.BPU, "it adds or removes axes of 1: folded away", found.source)
    counts = found.signatures.get(kind)
    if counts is None or counts.on_cpu is None:
        return None
    if counts.on_cpu:
        hint = hint_for(node, fact, False, table, form)
        if hint is not None and hint.fix is Fix.COMPILER_OPTION:
            return None  # the list names the option and the limits
        return _Placed(Device.CPU, f"the checker leaves {kind} on the CPU", found.source, hint=hint)
    dtypes = fact.dtypes if fact is not None and fact.device is not Support.CPU else table.general.dtypes
    unchecked: tuple[str, ...] = ()
    if fact is not None:
        broken, unchecked = check_limits(node, fact, table, SIZE_LIMITS)
        if broken:
            hint = hint_for(node, fact, True, table, form)
            return _Placed(Device.CPU, "; ".join(broken), fact.source, fact.confidence, unchecked, dtypes, hint)
    merged = counts.fused and not counts.bpu
    reason = (
        f"the checker fuses or folds {kind} into its neighbour" if merged else f"the checker puts {kind} on the BPU"
    )
    return _Placed(Device.BPU, reason, found.source, not_checked=unchecked, dtypes=dtypes)


def _not_listed(node: NodeView, table: OpTable) -> str:
    if node.domain:
        return f"domain {node.domain} is not standard ONNX"
    if table.complete:
        return f"{node.op} is not in the {table.board} list"
    return f"{table.march} has no public table, and the known build log has no {node.op}"


def _decide(fact: OpFact, table: OpTable, broken: Sequence[str]) -> tuple[Device, str, tuple[str, ...]]:
    """Return the device, the reason, and which parts of a composite are unchecked."""
    limits = fact.constraints
    note = f" ({limits.note})" if limits.note else ""
    if fact.device is Support.UNSUPPORTED:
        return Device.UNSUPPORTED, f"on neither device in the {table.board} list: the compiler refuses the model", ()
    if fact.device is Support.CPU:
        return Device.CPU, f"CPU only in the {table.board} list{note}", ()
    if broken:
        return Device.CPU, "; ".join(broken), ()
    if fact.device is Support.COMPOSITE:
        return _composite(fact, table, note)
    if fact.default_placement is Support.CPU:
        return Device.CPU, f"CPU by default, BPU with {limits.enable}", ()
    if not table.complete:
        lowered = f", as {limits.lowered_to}" if limits.lowered_to else ""
        return Device.BPU, f"on the BPU in the build log of a ViT{lowered}{note}", ()
    kept = "within every limit of" if limits.given() else "without limits in"
    return Device.BPU, f"{kept} the {table.board} list{note}", ()


def _composite(fact: OpFact, table: OpTable, note: str) -> tuple[Device, str, tuple[str, ...]]:
    parts = fact.constraints.parts or ()
    names = ", ".join(parts)
    on_cpu = [p for p in parts if p in table.ops and table.ops[p].device is Support.CPU]
    if on_cpu or fact.default_placement is Support.CPU:
        return Device.CPU, f"decomposed into {names}; on the CPU: {', '.join(on_cpu) or 'by default'}{note}", ()
    return Device.BPU, f"decomposed into {names}{note}", (f"the limits of its parts {names}",)


def _totals(nodes: Sequence[NodePlacement]) -> tuple[DeviceTotal, ...]:
    costs = {device: [n.cost for n in nodes if n.device is device] for device in Device}
    return tuple(DeviceTotal(device=d, nodes=len(c), cost=sum(c, Cost())) for d, c in costs.items() if c)


def _hint_summaries(nodes: Sequence[NodeView], placed: Sequence[NodePlacement]) -> tuple[HintSummary, ...]:
    """Group the hints; for a compiler option, count the BPU subgraphs left when it is applied."""
    found = []
    for hint in dict.fromkeys(p.hint for p in placed if p.hint is not None):
        members = [p for p in placed if p.hint == hint]
        after = None
        if hint.fix is Fix.COMPILER_OPTION:
            after = bpu_segments(nodes, [p.device is Device.BPU or p.hint == hint for p in placed]).count
        ops = tuple(sorted({p.op for p in members}))
        found.append(HintSummary(fix=hint.fix, text=hint.text, ops=ops, nodes=len(members), segments_after=after))
    order = list(Fix)
    return tuple(sorted(found, key=lambda h: (order.index(h.fix), -h.nodes)))


def _model_findings(
    model: onnx.ModelProto,
    nodes: Sequence[NodeView],
    placed: Sequence[_Placed],
    table: OpTable,
    constants: Collection[str],
) -> list[str]:
    """Return what the compiler would report about the model as a whole."""
    rules, found, graph, opset = table.model, list[str](), model.graph, opset_of(model)
    low, high = rules.opset
    if not low <= opset <= high:
        allowed = f"{low} to {high}" if high > low + 1 else f"{low} or {high}"
        found.append(f"opset {opset}: the compiler supports {allowed}; the restructured form has 11")
    if rules.max_ir_version is not None and model.ir_version > rules.max_ir_version:
        found.append(f"IR version {model.ir_version}: the compiler supports at most {rules.max_ir_version}")
    if rules.max_outputs is not None and len(graph.output) > rules.max_outputs:
        found.append(f"{len(graph.output)} outputs: the compiler supports at most {rules.max_outputs}")
    for value in inputs_of(graph):
        if value.name in constants:
            continue
        dims = value.type.tensor_type.shape.dim
        if rules.input_rank is not None and len(dims) != rules.input_rank:
            found.append(f"input {value.name} is {len(dims)}-D: the compiler supports {rules.input_rank}-D images")
        if rules.input_batch is not None and dims and dims[0].dim_value != rules.input_batch:
            found.append(f"input {value.name} has a batch of {dims[0].dim_value}: the compiler supports 1")
    on_bpu = (n.op for n, p in zip(nodes, placed, strict=True) if p.device is Device.BPU)
    if rules.needs_conv and not {"Conv", "Gemm"} & set(on_bpu):
        found.append("no convolution runs on the BPU: the compiler refuses such a model")
    return found
