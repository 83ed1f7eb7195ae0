"""Agreement of inspect with the checker, node by node, on whole networks in their 4-D form with random weights."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import onnx

from benchmarks.operators.checker_runs import FOLDER, answers, run_checker, save
from bpudeploy.backends.horizon.checker import MARCHES, unit_of
from bpudeploy.backends.horizon.findings import PlacementRow
from bpudeploy.backends.horizon.toolchain.installed import Toolchain
from bpudeploy.conformance.placement import placement
from bpudeploy.inspection import load_models
from bpudeploy.spec.target import March

DEVELOPMENT = (
    *("resnet18", "mobilenetv2_100", "efficientnet_lite0", "regnetx_002", "deit_tiny_patch16_224"),
    *("swin_tiny_patch4_window7_224", "mobilevit_xs", "convnext_atto", "visformer_tiny", "efficientformer_l1"),
    *("coatnet_nano_rw_224", "poolformer_s12", "mixer_s32_224"),
    *("resnet50", "mobilenetv3_small_100", "efficientnet_b0", "regnety_002", "densenet121", "ghostnet_100"),
    *("mnasnet_100", "repvit_m0_9", "mobilevitv2_050", "edgenext_xx_small", "efficientformerv2_s0", "levit_128s"),
    *("pvt_v2_b0", "resmlp_12_224", "cait_xxs24_224"),
)
"""timm architectures that the neighbour rules were derived from; the single-operator tables do not depend on them."""
HELD_OUT = (
    *("mobilenetv4_conv_small", "hrnet_w18_small", "fastvit_t8", "mobileone_s0", "tinynet_e", "pit_ti_224"),
    *("xcit_nano_12_p16_224", "convnextv2_atto", "dla34", "lcnet_050"),
)
"""timm architectures that neither rules nor tables were derived from."""


def print_agreement(tool: Toolchain) -> None:
    """Print, for each network, how many of the nodes that the checker lists are placed alike by inspect.

    Nodes that the checker folds or merges into a neighbour are not in its table and not counted.
    """
    marches = sorted(MARCHES)
    folder = FOLDER / "agree"
    networks = (_network(name) for name in (*DEVELOPMENT, *HELD_OUT))
    run_checker(tool, save(networks, folder), [march.value for march in marches])
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for model, answer in answers(folder):
        name, march = model.graph.name, answer.march
        if answer.refusal is not None:
            print(f"the checker refused {name} for {march}: {answer.refusal}", file=sys.stderr)
            continue
        found[name, march] = _alike(model, march, answer.rows)
    print(f"hb_mapper {tool.versions['hb_mapper']}: nodes placed alike / listed by the checker")
    for title, names in (("development", DEVELOPMENT), ("held out", HELD_OUT)):
        print(f"| {title} | " + " | ".join(march.value for march in marches) + " |\n|---|" + "---|" * len(marches))
        for label, row in (*((name, (name,)) for name in names), ("all", names)):
            shares = (_share([found.get((name, march), (0, 0)) for name in row]) for march in marches)
            print(f"| {label} | " + " | ".join(shares) + " |")
        print()


def _alike(model: onnx.ModelProto, march: March, rows: Iterable[PlacementRow]) -> tuple[int, int]:
    """Return the number of nodes placed alike, and of nodes listed."""
    placed = ((node.device.value, unit_of(node.name, rows)) for node in placement(model, march).nodes)
    alike = [ours == theirs.value for ours, theirs in placed if theirs is not None]
    return sum(alike), len(alike)


def _share(of: list[tuple[int, int]]) -> str:
    alike, listed = sum(a for a, _ in of), sum(b for _, b in of)
    return f"{alike}/{listed} ({100 * alike / listed:.2f} %)" if listed else "-"


def _network(name: str) -> onnx.ModelProto:
    ((subject, _),) = load_models(name, original=False, image_size=None)
    subject.model.graph.name = name
    subject.model.ir_version = min(subject.model.ir_version, 9)
    return subject.model
