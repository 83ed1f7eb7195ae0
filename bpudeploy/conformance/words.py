"""What a placement says in words: the lines of a summary, for the terminal and for pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from bpudeploy.conformance.grouping import Group
from bpudeploy.conformance.report import Device, Placement
from bpudeploy.spec.target import March

_TOP = 4
UNTRIED = {
    True: "read from the tables named above: `--with-compiler` asks the vendor's own. Counts from shapes, no latency.",
    False: "read from the tables named above; this board's compiler was never met. Counts from shapes, no latency.",
}
"""Keyed by whether the march's compiler can be had."""


def sums(p: Placement) -> Iterator[tuple[str, str]]:
    """Yield the lines of the summary: a name and what is to be said."""
    yield "nodes", _by_device(p)
    if p.march is not March.CPU:
        yield "BPU segments", _cuts(p)
    if p.macs_on_bpu is not None and p.march is not March.CPU:
        unknown = p.total(Device.UNKNOWN).cost.macs
        also = f", {100 * unknown / p.cost.macs:.1f} % unknown" if unknown else ""
        yield "MACs", f"{in_words(p.cost.macs)}, {p.macs_on_bpu:.1f} % on the BPU{also}"
    elif p.march is March.CPU:
        yield "MACs", in_words(p.cost.macs)
    yield "bytes at int8", f"{_bytes(p.cost.weight_bytes)} weights, {_bytes(_moved(p))} read and written by nodes"
    if p.march is not March.CPU:
        for device in (Device.CPU, Device.UNSUPPORTED, Device.UNKNOWN):
            ops = Counter(n.op for n in p.nodes if n.device is device)
            if ops:
                yield f"on {device}" if device is Device.CPU else device, _counted(ops)
    if p.cost.macs:
        yield "MACs by op", _by_op(p, "macs")
    yield "bytes by op", _by_op(p, "bytes")
    yield "largest node", _largest(p)
    for finding in p.model_findings:
        yield "the compiler", finding
    for help_ in p.helps:
        after = f" (BPU segments left: {help_.segments_after})" if help_.segments_after is not None else ""
        yield help_.fix, f"{', '.join(help_.ops)} ({help_.nodes}): {help_.text}{after}"
    if p.march is not March.CPU:
        yield "says who", ", ".join(f"{s} ({c})" for s, c in _sources(p))
        for note in p.notes:
            yield "mind", note
        if not p.asked:
            yield "mind", UNTRIED[p.march in (March.BERNOULLI2, March.BAYES, March.BAYES_E)]
    else:
        yield "mind", p.notes[0]


def _by_device(p: Placement) -> str:
    told = [
        (Device.BPU, "on the BPU"),
        (Device.CPU, "on the CPU"),
        (Device.UNSUPPORTED, "on neither: refused"),
        (Device.UNKNOWN, "unknown"),
        (Device.FOLDED, "computed when compiling"),
    ]
    parts = [f"{p.total(d).nodes} {words}" for d, words in told if p.total(d).nodes]
    return f"{len(p.nodes)}: {', '.join(parts)}"


def _cuts(p: Placement) -> str:
    cuts = p.cuts
    handed = span(cuts.handovers, cuts.handovers_at_best)
    size = f", {_bytes(cuts.handover_bytes)}" if cuts.handovers else ""
    at_best = " (fewest if the unknown nodes run on the BPU)" if cuts.segments != cuts.segments_at_best else ""
    what = "tensor" if handed == "1" else "tensors"
    text = f"{span(cuts.segments, cuts.segments_at_best)}{at_best}; {handed} {what} handed over{size}"
    return f"{text}, each by way of DDR" if cuts.handovers else text


def _moved(p: Placement) -> int:
    return p.cost.bytes_read + p.cost.bytes_written


def _bytes(count: int) -> str:
    return f"{in_words(count)}B" if count >= 1000 else f"{count} B"


def _counted(ops: Counter[str]) -> str:
    return ", ".join(f"{op} {n}" for op, n in ops.most_common())


def _by_op(p: Placement, of: Literal["macs", "bytes"]) -> str:
    """Return the operators with most of a cost, each with its share."""
    sums_: Counter[str] = Counter()
    for node in p.nodes:
        cost = node.cost
        sums_[node.op] += cost.macs if of == "macs" else cost.bytes_read + cost.bytes_written
    total = sum(sums_.values()) or 1
    told = _bytes if of == "bytes" else in_words
    parts = [f"{op} {told(n)} ({100 * n / total:.0f} %)" for op, n in sums_.most_common(_TOP) if n]
    return ", ".join(parts) or "none"


def _largest(p: Placement) -> str:
    node = max(p.nodes, key=lambda n: (n.cost.macs, n.cost.bytes_written))
    cost = f"{in_words(node.cost.macs)} MACs, " if node.cost.macs else ""
    return f"{node.name} ({node.op}, {node.device}): {cost}{_bytes(node.cost.bytes_written)} written"


def _sources(p: Placement) -> list[tuple[str, str]]:
    used = Counter((n.source, n.confidence) for n in p.nodes if n.device is not Device.FOLDED)
    return [pair for pair, _ in used.most_common()]


def in_words(count: int) -> str:
    """Return a count with three digits and a unit: ``1.26 G``."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * factor:
            return f"{count / factor:.3g} {unit}"
    return str(count)


def shapes(found: Sequence[tuple[int, ...] | None]) -> str:
    """Return ``1x192x1x197, ?``."""
    return ", ".join("x".join(map(str, s)) if s is not None else "?" for s in found) or "-"


def span(low: int, high: int) -> str:
    """Return ``1 to 39`` for what depends on unknown nodes."""
    low, high = min(low, high), max(low, high)
    return str(low) if low == high else f"{low} to {high}"


def why(group: Group) -> str:
    """Return a group's reason, with what could not be checked."""
    more = f" (and {group.variants - 1} like it)" if group.variants > 1 else ""
    unchecked = f"; not checked: {'; '.join(group.not_checked)}" if group.not_checked else ""
    return f"{group.reason}{more}{unchecked}"
