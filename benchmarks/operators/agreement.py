"""inspect beside the checker, node by node, on whole networks in their 4-D form, random weights."""

from __future__ import annotations

import sys

import onnx

from benchmarks.operators.checker_runs import FOLDER, answers, ask, device, save
from bpudeploy.backends.horizon.checker import MARCHES
from bpudeploy.backends.horizon.toolchain.installed import Toolchain
from bpudeploy.conformance.placement import placement
from bpudeploy.conformance.report import Device
from bpudeploy.inspection import subjects
from bpudeploy.spec.target import March

SEEN = (
    *("resnet18", "mobilenetv2_100", "efficientnet_lite0", "regnetx_002", "deit_tiny_patch16_224"),
    *("swin_tiny_patch4_window7_224", "mobilevit_xs", "convnext_atto", "visformer_tiny", "efficientformer_l1"),
    *("coatnet_nano_rw_224", "poolformer_s12", "mixer_s32_224"),
    *("resnet50", "mobilenetv3_small_100", "efficientnet_b0", "regnety_002", "densenet121", "ghostnet_100"),
    *("mnasnet_100", "repvit_m0_9", "mobilevitv2_050", "edgenext_xx_small", "efficientformerv2_s0", "levit_128s"),
    *("pvt_v2_b0", "resmlp_12_224", "cait_xxs24_224"),
)
"""Architectures of timm that the rules about neighbours were found on; the tables of single operators were not."""
HELD_OUT = (
    *("mobilenetv4_conv_small", "hrnet_w18_small", "fastvit_t8", "mobileone_s0", "tinynet_e", "pit_ti_224"),
    *("xcit_nano_12_p16_224", "convnextv2_atto", "dla34", "lcnet_050"),
)
"""Architectures of timm that nothing was made of."""


def agree(tool: Toolchain) -> None:
    """Print a table: for each network, the nodes that the checker lists, and how many of them inspect places alike.

    What the checker folds or merges into a neighbour is not in its table, and not counted.
    """
    marches = sorted(MARCHES)
    folder = FOLDER / "agree"
    ask(tool, save({name: _network(name) for name in (*SEEN, *HELD_OUT)}, folder), [march.value for march in marches])
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for model, answer in answers(folder):
        name, march = model.graph.name, str(answer["march"])
        if answer["status"] != 0:
            print(f"the checker refused {name} for {march}: {answer['said']}", file=sys.stderr)
            continue
        found[name, march] = _alike(model, March(march), answer["rows"])  # type: ignore[arg-type]
    print(f"hb_mapper {tool.versions['hb_mapper']}: nodes placed alike / listed by the checker")
    for title, names in (("seen", SEEN), ("held out", HELD_OUT)):
        print(f"| {title} | " + " | ".join(march.value for march in marches) + " |\n|---|" + "---|" * len(marches))
        for name in names:
            print(f"| {name} | " + " | ".join(_share([found.get((name, march), (0, 0))]) for march in marches) + " |")
        whole = (_share([found.get((name, march), (0, 0)) for name in names]) for march in marches)
        print("| all | " + " | ".join(whole) + " |\n")


def _alike(model: onnx.ModelProto, march: March, rows: list[tuple[str, str]]) -> tuple[int, int]:
    names = {"bpu": Device.BPU, "cpu": Device.CPU}
    placed = ((node.device, device(node.name, rows)) for node in placement(model, march).nodes)
    listed = [(ours, names[theirs]) for ours, theirs in placed if theirs in names]
    return sum(ours is theirs for ours, theirs in listed), len(listed)


def _share(of: list[tuple[int, int]]) -> str:
    alike, listed = sum(a for a, _ in of), sum(b for _, b in of)
    return f"{alike}/{listed} ({100 * alike / listed:.2f} %)" if listed else "-"


def _network(name: str) -> onnx.ModelProto:
    ((subject, _),) = subjects(name, original=False, image_size=None)
    subject.model.graph.name = name
    subject.model.ir_version = min(subject.model.ir_version, 9)
    return subject.model
