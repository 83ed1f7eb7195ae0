"""inspect beside the checker, node by node, on networks that no table was made of."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict

import onnx

from benchmarks.operators.asking import FOLDER, answers, ask, device, save
from bpudeploy.backends.horizon.checker import MARCHES
from bpudeploy.backends.horizon.toolchain.installed import Toolchain
from bpudeploy.conformance.placement import placement
from bpudeploy.conformance.report import Device
from bpudeploy.inspection import subjects
from bpudeploy.spec.target import March

NETWORKS = (
    *("resnet18", "mobilenetv2_100", "efficientnet_lite0", "regnetx_002", "deit_tiny_patch16_224"),
    *("swin_tiny_patch4_window7_224", "mobilevit_xs", "convnext_atto", "visformer_tiny", "efficientformer_l1"),
    *("coatnet_nano_rw_224", "poolformer_s12", "mixer_s32_224"),
)
"""Of timm, in their 4-D form, random weights."""


def agree(tool: Toolchain) -> None:
    """Print a table: for each network, its nodes, and how many of them both place alike on each march."""
    marches = sorted(MARCHES)
    folders = save({name: _network(name) for name in NETWORKS}, FOLDER / "agree")
    ask(tool, folders, [march.value for march in marches])
    alike: dict[str, Counter[str]] = defaultdict(Counter)
    nodes: dict[str, Counter[str]] = defaultdict(Counter)
    for model, answer in answers(FOLDER / "agree"):
        name, march = model.graph.name, str(answer["march"])
        if answer["status"] != 0:
            sys.exit(f"the checker refused {name} for {march}: {answer['said']}")
        rows: list[tuple[str, str]] = answer["rows"]  # type: ignore[assignment]
        for node in placement(model, March(march)).nodes:
            if node.device is not Device.FOLDED:
                nodes[name][march] += 1
                alike[name][march] += (node.device is not Device.BPU) == (device(node.name, rows) == "cpu")
    print(f"hb_mapper {tool.versions['hb_mapper']}")
    print(
        "| network | nodes | " + " | ".join(march.value for march in marches) + " |\n|---|---|" + "---|" * len(marches)
    )
    for name in NETWORKS:
        print(f"| {name} | {max(nodes[name].values())} | {' | '.join(str(alike[name][march]) for march in marches)} |")
    whole = {march: sum(nodes[name][march] for name in NETWORKS) for march in marches}
    shares = (f"{100 * sum(alike[name][march] for name in NETWORKS) / whole[march]:.2f} %" for march in marches)
    print(f"| all | {max(whole.values())} | {' | '.join(shares)} |")


def _network(name: str) -> onnx.ModelProto:
    ((subject, _),) = subjects(name, original=False, image_size=None)
    subject.model.graph.name = name
    subject.model.ir_version = min(subject.model.ir_version, 9)
    return subject.model
