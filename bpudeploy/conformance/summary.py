"""A placement in sentences: the lines of the summary, for the terminal and for pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from bpudeploy.conformance.grouping import NodeGroup
from bpudeploy.conformance.report import Cost, Device, Placement
from bpudeploy.spec.target import March

_TOP = 4
_HAS_CHECKER = (March.BERNOULLI2, March.BAYES, March.BAYES_E)


def summary_lines(p: Placement) -> Iterator[tuple[str, str]]:
    """Yield the lines of the summary: a label and its text."""
    bpu = p.march is not March.CPU
    yield "nodes", _by_device(p)
    if bpu:
        yield "BPU segments", _segments(p)
    if p.macs_on_bpu is not None and bpu:
        unknown = p.total(Device.UNKNOWN).cost.macs
        also = f", {100 * unknown / p.cost.macs:.1f} % unknown" if unknown else ""
        yield "MACs", f"{format_count(p.cost.macs)}, {p.macs_on_bpu:.1f} % on the BPU{also}"
    elif not bpu:
        yield "MACs", format_count(p.cost.macs)
    yield (
        "bytes at int8",
        f"{_bytes(p.cost.weight_bytes)} weights, {_bytes(_traffic(p.cost))} read and written by nodes",
    )
    if bpu:
        for device in (Device.CPU, Device.UNSUPPORTED, Device.UNKNOWN):
            ops = Counter(n.op for n in p.nodes if n.device is device)
            if ops:
                label = f"on {device}" if device is Device.CPU else device
                yield label, ", ".join(f"{op} {n}" for op, n in ops.most_common())
    if p.cost.macs:
        yield "MACs by op", _by_op(p, lambda cost: cost.macs, format_count)
    yield "bytes by op", _by_op(p, _traffic, _bytes)
    yield "largest node", _largest(p)
    for finding in p.model_findings:
        yield "compiler", finding
    for hint in p.helps:
        after = f" (BPU segments left: {hint.segments_after})" if hint.segments_after is not None else ""
        yield hint.fix, f"{', '.join(hint.ops)} ({hint.nodes}): {hint.text}{after}"
    if bpu:
        used = Counter((n.source, n.confidence) for n in p.nodes if n.device is not Device.FOLDED)
        yield "sources", ", ".join(f"{source} ({confidence})" for (source, confidence), _ in used.most_common())
    for note in p.notes:
        yield "note", note
    if bpu and not p.asked:
        if p.march in _HAS_CHECKER:
            how = "`--with-compiler` runs the vendor's own checker"
        else:
            how = "never compared with this board's compiler"
        yield "note", f"predicted from the sources above; {how}. Counts from shapes, no latency."


def _by_device(p: Placement) -> str:
    labels = {
        Device.BPU: "on the BPU",
        Device.CPU: "on the CPU",
        Device.UNSUPPORTED: "unsupported",
        Device.UNKNOWN: "unknown",
        Device.FOLDED: "constant-folded",
    }
    parts = [f"{p.total(d).nodes} {label}" for d, label in labels.items() if p.total(d).nodes]
    return f"{len(p.nodes)}: {', '.join(parts)}"


def _segments(p: Placement) -> str:
    cuts = p.cuts
    tensors = format_range(cuts.handovers, cuts.handovers_at_best)
    size = f", {_bytes(cuts.handover_bytes)}, through DDR" if cuts.handovers else ""
    at_best = " (fewest if the unknown nodes run on the BPU)" if cuts.segments != cuts.segments_at_best else ""
    what = "tensor" if tensors == "1" else "tensors"
    return f"{format_range(cuts.segments, cuts.segments_at_best)}{at_best}; {tensors} {what} handed over{size}"


def _traffic(cost: Cost) -> int:
    return cost.bytes_read + cost.bytes_written


def _bytes(count: int) -> str:
    return f"{format_count(count)}B" if count >= 1000 else f"{count} B"


def _by_op(p: Placement, of: Callable[[Cost], int], unit: Callable[[int], str]) -> str:
    """Return the operators with most of a cost, each with its share."""
    totals: Counter[str] = Counter()
    for node in p.nodes:
        totals[node.op] += of(node.cost)
    total = sum(totals.values()) or 1
    parts = [f"{op} {unit(n)} ({100 * n / total:.0f} %)" for op, n in totals.most_common(_TOP) if n]
    return ", ".join(parts) or "none"


def _largest(p: Placement) -> str:
    node = max(p.nodes, key=lambda n: (n.cost.macs, n.cost.bytes_written))
    cost = f"{format_count(node.cost.macs)} MACs, " if node.cost.macs else ""
    return f"{node.name} ({node.op}, {node.device}): {cost}{_bytes(node.cost.bytes_written)} written"


def format_count(count: int) -> str:
    """Return a count with three digits and a unit: ``1.26 G``."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * factor:
            return f"{count / factor:.3g} {unit}"
    return str(count)


def format_shapes(found: Sequence[tuple[int, ...] | None]) -> str:
    """Return ``1x192x1x197, ?``."""
    return ", ".join("x".join(map(str, s)) if s is not None else "?" for s in found) or "-"


def format_range(low: int, high: int) -> str:
    """Return ``1 to 39`` for a value that depends on unknown nodes."""
    low, high = min(low, high), max(low, high)
    return str(low) if low == high else f"{low} to {high}"


def reason_text(group: NodeGroup) -> str:
    """Return a group's reason, with what could not be checked."""
    more = f" (and {group.variants - 1} like it)" if group.variants > 1 else ""
    unchecked = f"; not checked: {'; '.join(group.not_checked)}" if group.not_checked else ""
    return f"{group.reason}{more}{unchecked}"
