"""How `inspect` is printed: groups of nodes or every node, then the sums and what would help."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from bpudeploy.conformance.grouping import group_nodes
from bpudeploy.conformance.report import Device, Inspection, Placement
from bpudeploy.conformance.summary import format_count, format_range, format_shapes, reason_text, summary_lines

_WIDTH = 118


def show(found: Sequence[Inspection], *, every_node: bool, as_json: bool) -> None:
    """Print each inspection: JSON documents, one a line, or tables."""
    if as_json:
        for one in found:
            print(one.model_dump_json())
        return
    if len(found) > 1:
        _compare(found)
    for one in found:
        _one(one, every_node)


def show_file(path: Path, as_json: bool) -> None:
    """Say where the page is."""
    print(f"page: {path}", file=sys.stderr if as_json else sys.stdout)


def _compare(found: Sequence[Inspection]) -> None:
    width = max(len(one.model) for one in found)
    print(
        f"  {'model':<{width}}  {'target':<10} {'march':<11} {'BPU':>5} {'CPU':>5} {'unknown':>8} "
        f"{'segments':>9} {'hand-overs':>11} {'MACs on BPU':>12}"
    )
    for one in found:
        p = one.placement
        macs = "-" if p.macs_on_bpu is None else f"{p.macs_on_bpu:.1f} %"
        print(
            f"  {one.model:<{width}}  {one.target:<10} {p.march:<11} {p.total(Device.BPU).nodes:>5} "
            f"{p.total(Device.CPU).nodes:>5} {p.total(Device.UNKNOWN).nodes:>8} "
            f"{format_range(p.cuts.segments, p.cuts.segments_at_best):>9} "
            f"{format_range(p.cuts.handovers, p.cuts.handovers_at_best):>11} {macs:>12}"
        )
    print()


def _one(one: Inspection, every_node: bool) -> None:
    p = one.placement
    print(f"{one.model} on {one.target} ({p.board}, {p.march}), {p.form}")
    print(f"  {one.origin}\n")
    if every_node:
        _nodes(p)
    else:
        _groups(p)
    print()
    for name, text in summary_lines(p):
        print("\n".join(_wrapped(name, text)))
    print()


def _groups(p: Placement) -> None:
    print(f"  {'nodes':>5}  {'op':<20} {'where':<11} why")
    for g in group_nodes(p.nodes):
        print(_hung(f"  {g.nodes:>5}  {g.op:<20} {g.device:<11} ", reason_text(g)))


def _nodes(p: Placement) -> None:
    print(f"  {'where':<11} {'op':<20} {'MACs':>8}  node, shapes, why")
    for n in p.nodes:
        macs = format_count(n.cost.macs) if n.cost.macs else ""
        unchecked = f"; not checked: {'; '.join(n.not_checked)}" if n.not_checked else ""
        told = f"{n.name}  {format_shapes(n.inputs)} -> {format_shapes(n.outputs)}  {n.reason}{unchecked}"
        print(_hung(f"  {n.device:<11} {n.op:<20} {macs:>8}  ", told))


def _hung(head: str, text: str) -> str:
    """Return ``text`` wrapped beside ``head``."""
    return textwrap.fill(text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)


def _wrapped(name: str, text: str) -> list[str]:
    return _hung(f"  {name:<16} ", text).splitlines()
