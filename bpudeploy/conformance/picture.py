"""The graph as a self-contained SVG: one row per part of the network, one cell per node."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bpudeploy.conformance.grouping import network_parts
from bpudeploy.conformance.report import Cost, Device, NodePlacement, Placement
from bpudeploy.conformance.summary import format_count, format_shapes

_WIDTH, _LABEL, _RIGHT = 1080, 136, 206
_CELL, _HEIGHT, _GAP, _ROW_GAP = 33, 18, 2, 7
_LEGEND = 48
_ABBREVIATIONS = """
Reshape=Rshp Transpose=Trsp Reciprocal=1/x MatMul=MatM Softmax=Softm Sigmoid=Sigm HardSigmoid=HSig HardSwish=HSwi
Squeeze=Sqz Unsqueeze=Unsq Concat=Cat LayerNormalization=LNorm BatchNormalization=BNorm GlobalAveragePool=GAvg
AveragePool=AvgP MaxPool=MaxP ReduceMean=RMean ReduceSum=RSum ReduceMax=RMax ConvTranspose=ConvT Expand=Expd
Flatten=Flat Identity=Id
"""
_CODES = dict(pair.split("=") for pair in _ABBREVIATIONS.split())
_STYLE = """\
.plc text { font-family: system-ui, sans-serif; font-size: 9px; text-anchor: middle; }
.plc .l { font-size: 11px; text-anchor: start; fill: #1f2937; }
.plc .q { font-size: 10px; text-anchor: start; fill: #6b7280; }
.plc rect { rx: 2.5px; }
.plc .bpu { fill: #dbeafe; } .plc .bpu + text { fill: #1e3a8a; }
.plc .mac { fill: #2563eb; } .plc .mac + text { fill: #ffffff; }
.plc .cpu { fill: #f59e0b; } .plc .cpu + text { fill: #000000; font-weight: 600; }
.plc .unk { fill: #ffffff; stroke: #6b7280; stroke-dasharray: 2 1.5; } .plc .unk + text { fill: #374151; }
.plc .uns { fill: #991b1b; } .plc .uns + text { fill: #ffffff; font-weight: 600; }
.plc .cut { stroke: #dc2626; stroke-width: 2; }
"""
_CLASSES = {Device.BPU: "bpu", Device.CPU: "cpu", Device.UNKNOWN: "unk", Device.UNSUPPORTED: "uns"}


def picture(placement: Placement) -> str:
    """Return the SVG. Constant-folded nodes are omitted; the legend has their number."""
    shown = [n for n in placement.nodes if n.device is not Device.FOLDED]
    body, y = [], _LEGEND
    for name, nodes in network_parts(shown):
        cells, y = _row(name, nodes, y)
        body += cells
    return "\n".join(
        [
            f'<svg class="plc" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" role="img" '
            f'aria-label="{len(shown)} nodes by device on {escape(placement.board)}">',
            f"<style>{_STYLE}</style>",
            *_legend(placement, len(placement.nodes) - len(shown)),
            *body,
            "</svg>",
        ]
    )


def _legend(placement: Placement, folded: int) -> list[str]:
    entries = [("mac", "BPU, multiply-accumulates"), ("bpu", "BPU"), ("cpu", "CPU"), ("unk", "unknown")]
    if placement.total(Device.UNSUPPORTED).nodes:
        entries.append(("uns", "on neither"))
    made, x = [], 0
    for name, text in entries:
        made.append(f'<rect class="{name}" x="{x + 0.5}" y="2.5" width="22" height="12"/><text/>')
        made.append(f'<text class="l" x="{x + 28}" y="12">{text}</text>')
        x += 46 + round(6.2 * len(text))
    made.append(f'<line class="cut" x1="{x + 4}" x2="{x + 4}" y1="1" y2="16"/>')
    made.append(f'<text class="l" x="{x + 12}" y="12">reads a tensor from the other device</text>')
    omitted = f"; {folded} constant-folded nodes are omitted" if folded else ""
    caption = f"One cell per node, in order; one row per part of the network; hover for shapes and reasons{omitted}."
    return [*made, f'<text class="q" x="0" y="32">{caption}</text>']


def _row(part: str, nodes: Sequence[NodePlacement], y: int) -> tuple[list[str], int]:
    """Return the cells of one part, wrapped into lines, and the y of the next row."""
    per_line = (_WIDTH - _LABEL - _RIGHT) // (_CELL + _GAP)
    name = part if len(part) <= 22 else f"{part[:9]}…{part[-12:]}"
    made = [f'<text class="l" x="0" y="{y + 13}"><title>{escape(part)}</title>{escape(name)}</text>']
    made.append(f'<text class="q" x="{_WIDTH - _RIGHT + 8}" y="{y + 13}">{_totals(nodes)}</text>')
    for i, node in enumerate(nodes):
        line, column = divmod(i, per_line)
        made.append(_cell(node, _LABEL + column * (_CELL + _GAP), y + line * (_HEIGHT + _GAP)))
    lines = (len(nodes) - 1) // per_line + 1
    return made, y + lines * (_HEIGHT + _GAP) + _ROW_GAP


def _totals(nodes: Sequence[NodePlacement]) -> str:
    cost = sum((n.cost for n in nodes), Cost())
    off = sum(n.device is not Device.BPU for n in nodes)
    macs = f", {format_count(cost.macs)} MACs" if cost.macs else ""
    return f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}{f', {off} not on BPU' if off else ''}{macs}"


def _cell(node: NodePlacement, x: int, y: int) -> str:
    name = "mac" if node.device is Device.BPU and node.cost.macs else _CLASSES[node.device]
    cut = f'<line class="cut" x1="{x - 1}" x2="{x - 1}" y1="{y}" y2="{y + _HEIGHT}"/>' if node.takes_over else ""
    code = _CODES.get(node.op, node.op[:5])
    return (
        f"<g><title>{escape(_tooltip(node))}</title>"
        f'<rect class="{name}" x="{x}" y="{y}" width="{_CELL}" height="{_HEIGHT}"/>'
        f'<text x="{x + _CELL / 2:g}" y="{y + 12}">{escape(code)}</text>{cut}</g>'
    )


def _tooltip(node: NodePlacement) -> str:
    lines = [f"{node.op} {node.name}", f"{format_shapes(node.inputs)} → {format_shapes(node.outputs)}"]
    lines.append(f"{node.device}: {node.reason}")
    lines += [f"not checked: {text}" for text in node.not_checked]
    if node.cost.macs:
        lines.append(
            f"{format_count(node.cost.macs)} MACs, {format_count(node.cost.weight_bytes)} weight bytes at int8"
        )
    if node.segment is not None:
        lines.append(f"BPU segment {node.segment}")
    if node.hint is not None:
        lines.append(f"hint: {node.hint.text}")
    return "\n".join(lines)
