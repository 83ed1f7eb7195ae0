"""Where every node of a graph would run on a march, and why: a pure function of the graph and the op tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpudeploy.conformance.cost import cost_of
from bpudeploy.conformance.graph import NodeView, read_graph
from bpudeploy.conformance.hints import hint_for
from bpudeploy.conformance.limits.every import OF_SIZE, findings
from bpudeploy.conformance.measured import measured
from bpudeploy.conformance.neighbours import by_neighbours
from bpudeploy.conformance.report import (
    Cost,
    Device,
    DeviceTotal,
    Fix,
    Form,
    Help,
    Hint,
    NodePlacement,
    Placement,
)
from bpudeploy.conformance.segments import cut, segments
from bpudeploy.conformance.signature import ONLY_ONES, signature
from bpudeploy.conformance.table import Default, OnBoard, OpFact, OpTable, op_table
from bpudeploy.spec.target import March

if TYPE_CHECKING:
    import onnx


MEASURED = "measured"
"""How sure a placement is that the vendor's checker itself gave to such a node."""


@dataclass(frozen=True)
class Checked:
    """Where the compiler's own checker put the nodes of a model; one that is in no row is part of a neighbour."""

    source: str
    """The tool and its version."""
    cpu: frozenset[str]

    def of(self, name: str) -> Device:
        return Device.CPU if name in self.cpu else Device.BPU

    def compared(self, nodes: int, differ: int) -> str:
        return f"asked of {self.source} itself; without it, inspect places {nodes - differ} of {nodes} nodes alike"


@dataclass(frozen=True)
class _Verdict:
    device: Device
    reason: str
    not_checked: tuple[str, ...]
    source: str
    confidence: str
    dtypes: tuple[str, ...] = ()
    hint: Hint | None = None


def placement(
    model: onnx.ModelProto,
    march: March,
    constants: Collection[str] = (),
    form: Form = Form.RESTRUCTURED,
    *,
    trained: bool = True,
    checked: Checked | None = None,
) -> Placement:
    """Return where each node of ``model`` would run on ``march``, before any compiler has seen it, or as it says.

    Args:
        constants: inputs of the graph that are weights, as in an export without them.
        form: which form of the network it is; an original one is told what the rewrite takes in.
        trained: the weights in it are real; else nothing is concluded from their values.
        checked: what the compiler itself says of this very model; it decides, and the tables only give the hints.
    """
    return place(model, read_graph(model, constants, trained=trained), march, constants, form, checked)


def left_to_cpu(model: onnx.ModelProto, march: March) -> frozenset[str]:
    """Return the nodes that a BPU's compiler leaves to the CPU though it is asked; none where all is a CPU."""
    if march is March.CPU:
        return frozenset()
    nodes = placement(model, march).nodes
    return frozenset(n.name for n in nodes if n.device is not Device.BPU and not n.can_be_asked)


def place(
    model: onnx.ModelProto,
    nodes: Sequence[NodeView],
    march: March,
    constants: Collection[str],
    form: Form,
    checked: Checked | None = None,
) -> Placement:
    """Return the ``placement`` of a model whose ``nodes`` have been read."""
    if march is March.CPU:
        return _on_cpu(nodes, form)
    table = op_table(march)
    verdicts = _with_neighbours(nodes, [_verdict(node, table, form) for node in nodes], table)
    differ = 0
    if checked is not None:
        differ = sum(checked.of(n.name) is not v.device for n, v in zip(nodes, verdicts, strict=True) if not n.folded)
        verdicts = [_said(n, v, checked) for n, v in zip(nodes, verdicts, strict=True)]
    devices = [v.device for v in verdicts]
    found, cuts = cut(nodes, devices)
    placed = tuple(
        _placed(n, v, found.of.get(i), found.takes.get(i, 0))
        for i, (n, v) in enumerate(zip(nodes, verdicts, strict=True))
    )
    return Placement(
        march=march,
        board=table.board,
        form=form,
        nodes=placed,
        totals=_totals(placed),
        cuts=cuts,
        model_findings=() if checked else tuple(_of_the_model(model, nodes, devices, table, constants)),
        helps=_helps(nodes, verdicts),
        notes=(checked.compared(len(nodes), differ),) if checked else table.notes,
        asked=checked is not None,
    )


def _said(node: NodeView, ours: _Verdict, checked: Checked) -> _Verdict:
    """Return what the compiler says of a node, with our reason where we say the same."""
    device = checked.of(node.name)
    if node.folded or device is ours.device:
        return ours
    hint = ours.hint if device is Device.CPU else None
    return _Verdict(device, f"the checker's own table has it on the {device}", (), checked.source, MEASURED, hint=hint)


def _placed(node: NodeView, verdict: _Verdict, segment: int | None, takes_over: int) -> NodePlacement:
    return NodePlacement(
        name=node.name,
        scope=node.scope,
        op=node.op,
        inputs=tuple(t.shape for t in node.features),
        outputs=tuple(t.shape for t in node.outputs),
        device=verdict.device,
        reason=verdict.reason,
        not_checked=verdict.not_checked,
        dtypes=verdict.dtypes,
        source=verdict.source,
        confidence=verdict.confidence,
        hint=verdict.hint,
        cost=cost_of(node),
        segment=segment,
        takes_over=takes_over,
    )


def _with_neighbours(nodes: Sequence[NodeView], verdicts: list[_Verdict], table: OpTable) -> list[_Verdict]:
    found = measured(table.march)
    if not found.signatures:
        return verdicts
    moved = by_neighbours(nodes, [v.device for v in verdicts], strict=table.march is March.BERNOULLI2)
    for i, (device, reason) in moved.items():
        verdicts[i] = _Verdict(device, reason, (), found.source, MEASURED)
    return verdicts


_FOLDED = _Verdict(Device.FOLDED, "computed when compiling: it depends on no input", (), "the graph", "certain")


def _verdict(node: NodeView, table: OpTable, form: Form) -> _Verdict:
    if node.folded:
        return _FOLDED
    fact = table.ops.get(node.op) if node.domain == "" else None
    seen = _seen(node, fact, table, form)
    if seen is not None:
        return seen
    if fact is None:
        return _Verdict(
            Device.UNKNOWN,
            _not_listed(node, table),
            (),
            table.general.source,
            "not listed",
            hint=hint_for(node, None, False, table, form),
        )
    found = findings(node, fact, table)
    broken, unchecked = [f.text for f in found if f.broken], tuple(f.text for f in found if not f.broken)
    device, reason, parts = _decide(node, fact, table, broken)
    hint = None if device is Device.BPU else hint_for(node, fact, bool(broken), table, form)
    if device is Device.CPU and fact.device is OnBoard.CPU:
        unchecked = ()  # no limit decides
    return _Verdict(device, reason, (*unchecked, *parts), fact.source, fact.confidence, fact.dtypes, hint)


def _seen(node: NodeView, fact: OpFact | None, table: OpTable, form: Form) -> _Verdict | None:
    """Return where the vendor's checker put nodes of this signature; None where it was not asked or sizes decide."""
    found = measured(table.march)
    kind = signature(node)
    if kind is None or not found.signatures:
        return None
    if ONLY_ONES in kind:
        return _Verdict(Device.BPU, "it adds or removes axes of 1: folded away", (), found.source, MEASURED)
    seen = found.signatures.get(kind)
    if seen is None or seen.on_cpu is None:
        return None
    if seen.on_cpu:
        hint = hint_for(node, fact, False, table, form)
        if hint is not None and hint.fix is Fix.ASK:
            return None  # the list says how it is asked for, and with which limits
        return _Verdict(Device.CPU, f"the checker leaves {kind} on the CPU", (), found.source, MEASURED, hint=hint)
    dtypes = fact.dtypes if fact is not None and fact.device is not OnBoard.CPU else table.general.dtypes
    of_size = findings(node, fact, table, OF_SIZE) if fact is not None else ()
    broken, unchecked = [f.text for f in of_size if f.broken], tuple(f.text for f in of_size if not f.broken)
    if broken and fact is not None:
        hint = hint_for(node, fact, True, table, form)
        return _Verdict(Device.CPU, "; ".join(broken), unchecked, fact.source, fact.confidence, dtypes, hint)
    how = "fuses or folds" if seen.fused and not seen.bpu else "puts"
    where = "into its neighbour" if seen.fused and not seen.bpu else "on the BPU"
    return _Verdict(
        Device.BPU,
        f"the checker {how} {kind} {where}",
        unchecked,
        found.source,
        MEASURED,
        dtypes,
    )


def _not_listed(node: NodeView, table: OpTable) -> str:
    if node.domain:
        return f"it is of domain {node.domain}, which is not standard ONNX"
    if table.complete:
        return f"{node.op} is not in the {table.board} list"
    return f"no public table of {table.march}, and no {node.op} in the build log that is known"


def _decide(node: NodeView, fact: OpFact, table: OpTable, broken: Sequence[str]) -> tuple[Device, str, tuple[str, ...]]:
    """Return the device, the reason, and what is left unchecked of the parts of a composite."""
    limits = fact.constraints
    note = f" ({limits.note})" if limits.note else ""
    if fact.device is OnBoard.UNSUPPORTED:
        return (
            Device.UNSUPPORTED,
            f"the {table.board} list has it on neither device: the compiler refuses the model",
            (),
        )
    if fact.device is OnBoard.CPU:
        return Device.CPU, f"the {table.board} list has it on the CPU only{note}", ()
    if broken:
        return Device.CPU, "; ".join(broken), ()
    if fact.device is OnBoard.COMPOSITE:
        return _composite(fact, table, note)
    if fact.default_placement is Default.CPU:
        return Device.CPU, f"CPU unless asked for: {limits.enable}", ()
    if not table.complete:
        lowered = f", as {limits.lowered_to}" if limits.lowered_to else ""
        return Device.BPU, f"on the BPU in the build log of a ViT{lowered}{note}", ()
    kept = "keeps every limit of" if limits.given() else "has no limit in"
    return Device.BPU, f"{kept} the {table.board} list{note}", ()


def _composite(fact: OpFact, table: OpTable, note: str) -> tuple[Device, str, tuple[str, ...]]:
    parts = fact.constraints.parts or ()
    on_cpu = [p for p in parts if p in table.ops and table.ops[p].device is OnBoard.CPU]
    if on_cpu or fact.default_placement is Default.CPU:
        because = f"taken apart into {', '.join(parts)}; on the CPU: {', '.join(on_cpu) or 'by default'}"
        return Device.CPU, f"{because}{note}", ()
    return Device.BPU, f"taken apart into {', '.join(parts)}{note}", (f"the limits of its parts {', '.join(parts)}",)


def _totals(nodes: Sequence[NodePlacement]) -> tuple[DeviceTotal, ...]:
    found = []
    for device in Device:
        mine = [n.cost for n in nodes if n.device is device]
        if mine:
            found.append(DeviceTotal(device=device, nodes=len(mine), cost=sum(mine, Cost())))
    return tuple(found)


def _helps(nodes: Sequence[NodeView], verdicts: Sequence[_Verdict]) -> tuple[Help, ...]:
    """Group the hints; where the fix moves nodes to the BPU, count the subgraphs that would be left."""
    groups: dict[tuple[Fix, str], list[int]] = {}
    for i, verdict in enumerate(verdicts):
        if verdict.hint is not None:
            groups.setdefault((verdict.hint.fix, verdict.hint.text), []).append(i)
    on_bpu = [v.device is Device.BPU for v in verdicts]
    found = []
    for (fix, text), members in groups.items():
        after = None
        if fix is Fix.ASK:
            moved = set(members)
            after = segments(nodes, [b or i in moved for i, b in enumerate(on_bpu)]).count
        ops = tuple(sorted({nodes[i].op for i in members}))
        found.append(Help(fix=fix, text=text, ops=ops, nodes=len(members), segments_after=after))
    order = list(Fix)
    return tuple(sorted(found, key=lambda h: (order.index(h.fix), -h.nodes)))


def _of_the_model(
    model: onnx.ModelProto,
    nodes: Sequence[NodeView],
    devices: Sequence[Device],
    table: OpTable,
    constants: Collection[str],
) -> list[str]:
    """Return what the compiler would say of the model as a whole."""
    rules, found, graph = table.model, [], model.graph
    opset = next((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), 1)
    low, high = rules.opset
    if not low <= opset <= high:
        allowed = f"{low} to {high}" if high > low + 1 else f"{low} or {high}"
        found.append(f"opset {opset}: the compiler takes {allowed}; the restructured form has 11")
    if rules.max_ir_version is not None and model.ir_version > rules.max_ir_version:
        found.append(f"IR version {model.ir_version}: the compiler takes {rules.max_ir_version} at most")
    if rules.max_outputs is not None and len(graph.output) > rules.max_outputs:
        found.append(f"{len(graph.output)} outputs: the compiler takes {rules.max_outputs} at most")
    fed = {t.name for t in graph.initializer} | set(constants)
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name in fed:
            continue
        if rules.input_rank is not None and len(dims) != rules.input_rank:
            found.append(f"input {value.name} is {len(dims)}-D: the compiler takes {rules.input_rank}-D images")
        if rules.input_batch is not None and dims and dims[0].dim_value != rules.input_batch:
            found.append(f"input {value.name} has a batch of {dims[0].dim_value}: the compiler takes 1")
    conv = any(n.op in ("Conv", "Gemm") and d is Device.BPU for n, d in zip(nodes, devices, strict=True))
    if rules.needs_conv and not conv:
        found.append("no convolution runs on the BPU: the compiler refuses such a model")
    return found


def _on_cpu(nodes: Sequence[NodeView], form: Form) -> Placement:
    said = _Verdict(Device.CPU, "this target has no BPU: onnxruntime runs it on the CPU", (), "the target", "certain")
    verdicts = [_FOLDED if n.folded else said for n in nodes]
    placed = tuple(_placed(n, v, None, 0) for n, v in zip(nodes, verdicts, strict=True))
    return Placement(
        march=March.CPU,
        board="CPU",
        form=form,
        nodes=placed,
        totals=_totals(placed),
        cuts=cut(nodes, [v.device for v in verdicts])[1],
        model_findings=(),
        helps=(),
        notes=("this target has no BPU: everything runs on the board's CPU",),
    )
