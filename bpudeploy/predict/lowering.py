"""Where a compiler puts a node in practice, beyond what the operator lists say one by one.

The lists look at a node as it stands; the tools rewrite some first. Each exception rests on a published build log.
"""

from __future__ import annotations

from bpudeploy.conformance.graph import NodeView
from bpudeploy.conformance.report import Device, NodePlacement
from bpudeploy.spec.target import March

_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def runs_on_bpu(node: NodeView, placed: NodePlacement, march: March) -> bool:
    """Return whether the compiled network would run ``node`` on the BPU, softmax having been asked for.

    - A node that nothing public says anything of counts as on the BPU: in the one log of a ViT on nash all are.
    - What the compiler can be asked for counts as asked (the vendor's own recipes ask for every softmax).
    - A product with constant weights becomes a convolution between two layout changes (ViT log, hb_compile 3.3.22),
      and a Split in unequal parts becomes slices (YOLO11n logs on X5: no node on the CPU); not on X3.
    - A view at the end of the network costs nothing: the tools fold it away or it is removed by name.
    """
    if placed.device in (Device.BPU, Device.UNKNOWN):
        return True
    if placed.bpu_on_request:
        return True
    if node.op in _VIEWS and node.is_graph_output:
        return True
    if march is March.BERNOULLI2:
        return False
    return (node.op == "MatMul" and bool(node.constants)) or node.op == "Split"
