"""inspect: which operator would run where, before any compiler has seen the model."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from bpudeploy.cli.arguments import add_network, require_image_size, targets_named
from bpudeploy.cli.output import WIDTH, Output, table, wrap
from bpudeploy.conformance.grouping import group_nodes
from bpudeploy.conformance.report import Device, Inspection, Placement
from bpudeploy.conformance.summary import format_count, format_range, format_shapes, reason_text, summary_lines
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.inspection import load_models
from bpudeploy.spec.load import is_file, list_targets

EXAMPLE = """\
  bpudeploy inspect deit_tiny_patch16_224 --target rdk-x5
  bpudeploy inspect deit_tiny_patch16_224 --target rdk-x3,rdk-x5,rdk-ultra,rdk-s100
  bpudeploy inspect deit_tiny_patch16_224 --target rdk-x5 --original --all
  bpudeploy inspect recipes/quickstart.yaml --target rdk-x5 --html placement.html
  bpudeploy inspect model.onnx --target rdk-x3,rdk-x5 --with-compiler

It uses recorded verdicts of the vendor's checker on small networks, and the vendor's operator lists. No compiler
runs unless asked for, nothing is fetched, no latency is predicted."""


def arguments(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    parser.add_argument("--original", action="store_true", help="the graph as exported, not its 4-D form")
    parser.add_argument(
        "--with-compiler",
        action="store_true",
        help="ask the vendor's own checker (X3, Ultra, X5; see `bpudeploy toolchain`)",
    )
    parser.add_argument("--all", action="store_true", help="list every node instead of groups")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with a picture of the graph")


def run(args: Namespace, out: Output) -> ExitCode:
    """Show a model's placement on one or several targets."""
    require_image_size(args.image_size)
    targets = targets_named(args.target)
    if not targets and not is_file(args.model):
        raise UsageError("--target is missing", hint=f"add --target NAME: {', '.join(sorted(list_targets(Path())))}")
    if args.html is not None and not args.html.parent.is_dir():
        raise UsageError(f"cannot write {args.html}: there is no folder {args.html.parent}", hint="name another --html")
    found: list[Inspection] = []
    with out.live() as live:
        emit = live.draw if args.with_compiler else None
        for subject, own in load_models(args.model, original=args.original, image_size=args.image_size):
            found += [subject.on(target, emit) for target in targets or ([own] if own is not None else [])]
    if args.html is not None:
        _write(args.html, found)
    if len(found) > 1 and not out.as_json:
        out.show(None, [*_compared(found), ""])
    for one in found:
        out.show(one, _text(one, args.all))
    if args.html is not None:
        out.aside(f"page: {args.html}")
    return ExitCode.OK


def _write(path: Path, found: list[Inspection]) -> None:
    from bpudeploy.results.report import write_inspection

    try:
        write_inspection(found, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", hint="name another --html file") from error


def _compared(found: Sequence[Inspection]) -> list[str]:
    rows = []
    for one in found:
        p = one.placement
        counts = (p.total(device).nodes for device in (Device.BPU, Device.CPU, Device.UNKNOWN))
        cuts = (
            format_range(p.cuts.segments, p.cuts.segments_at_best),
            format_range(p.cuts.handovers, p.cuts.handovers_at_best),
        )
        macs = "-" if p.macs_on_bpu is None else f"{p.macs_on_bpu:.1f} %"
        rows.append((one.model, one.target, p.march, *counts, *cuts, macs))
    columns = ("model", "target", "march", ">BPU", ">CPU", ">unknown", ">segments", ">hand-overs", ">MACs on BPU")
    return table(columns, rows)


def _text(one: Inspection, every_node: bool) -> Iterator[str]:
    p = one.placement
    yield f"{one.model} on {one.target} ({p.board}, {p.march}), {p.form}"
    yield f"  {one.origin}\n"
    yield from _nodes(p) if every_node else _groups(p)
    yield ""
    for name, text in summary_lines(p):
        yield wrap(f"  {name:<16} ", text)
    yield ""


def _groups(p: Placement) -> list[str]:
    rows = [(g.nodes, g.op, g.device, reason_text(g)) for g in group_nodes(p.nodes)]
    return table((">nodes", "op", "where", "why"), rows, width=WIDTH)


def _nodes(p: Placement) -> list[str]:
    rows = []
    for n in p.nodes:
        unchecked = f"; not checked: {'; '.join(n.not_checked)}" if n.not_checked else ""
        text = f"{n.name}  {format_shapes(n.inputs)} -> {format_shapes(n.outputs)}  {n.reason}{unchecked}"
        rows.append((n.device, n.op, format_count(n.cost.macs) if n.cost.macs else "", text))
    return table(("where", "op", ">MACs", "node, shapes, why"), rows, width=WIDTH)
