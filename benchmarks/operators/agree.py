"""inspect beside the checker, node by node, on networks that no table was made of."""

from __future__ import annotations

from collections import Counter

import onnx

from bpudeploy.backends.horizon.checker import MARCHES, check
from bpudeploy.backends.horizon.toolchain.installed import Toolchain
from bpudeploy.conformance.placement import placement
from bpudeploy.conformance.report import Device
from bpudeploy.errors import StageError
from bpudeploy.inspection import subjects
from bpudeploy.spec.compile_options import HbMapperOptions

NETWORKS = (
    *("resnet18", "mobilenetv2_100", "efficientnet_lite0", "regnetx_002", "deit_tiny_patch16_224"),
    *("swin_tiny_patch4_window7_224", "mobilevit_xs", "convnext_atto", "visformer_tiny", "efficientformer_l1"),
    *("coatnet_nano_rw_224", "poolformer_s12", "mixer_s32_224"),
)
"""Of timm, in their 4-D form, random weights."""


def agree(tool: Toolchain) -> None:
    """Print a table: nodes that both place alike, of all, for each network and march."""
    marches = sorted(MARCHES)
    print(f"hb_mapper {tool.versions['hb_mapper']}; Softmax counts as asked for, which the checker is not")
    print("| network | nodes | " + " | ".join(m.value for m in marches) + " |\n|---|---|" + "---|" * len(marches))
    total: Counter[str] = Counter()
    for name in NETWORKS:
        ((subject, _),) = subjects(name, original=False, image_size=None)
        cells, count = [], 0
        for march in marches:
            try:
                alike, count = _alike(subject.model, march)
                total[march] += alike
                cells.append(f"{alike}" if alike == count else f"**{alike}**")
            except StageError as error:
                cells.append(error.message.splitlines()[0][:60])
        total["nodes"] += count
        print(f"| {name} | {count} | {' | '.join(cells)} |", flush=True)
    shares = (f"{100 * total[m] / total['nodes']:.2f} %" for m in marches)
    print(f"| all | {total['nodes']} | {' | '.join(shares)} |")


def _alike(model: onnx.ModelProto, march: object) -> tuple[int, int]:
    from bpudeploy.spec.target import March

    said = check(model, March(str(march)), HbMapperOptions(), lambda event: None)
    nodes = [n for n in placement(model, March(str(march))).nodes if n.device is not Device.FOLDED]
    alike = sum((n.device is not Device.BPU) == (n.name in said.cpu) for n in nodes)
    return alike, len(nodes)
