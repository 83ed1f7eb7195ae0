"""Where a compiler places a node in practice, beyond the vendor's operator lists.

The lists consider each node separately, but the tools rewrite some nodes first. Each exception is based on a published
build log.
"""

from __future__ import annotations

from bpudeploy.conformance.graph import NodeView
from bpudeploy.conformance.report import Device, NodePlacement
from bpudeploy.spec.operators import RESHAPES
from bpudeploy.spec.target import March


def runs_on_bpu(node: NodeView, placed: NodePlacement, march: March) -> bool:
    """Return whether the compiled network runs ``node`` on the BPU, with softmax requested there.

    - A node without public information counts as on the BPU: in the only published log of a ViT on nash, all are.
    - A node that can be placed on the BPU on request counts as requested, as in the vendor's own recipes.
    - A product with constant weights becomes a convolution between two layout changes (ViT log, hb_compile 3.3.22),
      and a Split into unequal parts becomes slices (YOLO11n logs on X5: no node on the CPU); not on X3.
    - A view at the end of the network costs nothing: it is folded away or removed by name.
    """
    if placed.device in (Device.BPU, Device.UNKNOWN) or placed.bpu_on_request:
        return True
    if node.op in RESHAPES and node.is_graph_output:
        return True
    if march is March.BERNOULLI2:
        return False
    return (node.op == "MatMul" and bool(node.constants)) or node.op == "Split"
