"""docs/coverage.md from a sweep's results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]
FAMILIES: dict[str, str] = {
    "ViT": "vit_tiny_patch16_224",
    "DeiT": "deit_tiny_patch16_224",
    "DeiT, distilled": "deit_tiny_distilled_patch16_224",
    "DeiT-3 (LayerScale)": "deit3_small_patch16_224",
    "DINOv2 with registers": "vit_small_patch14_reg4_dinov2",
    "CLIP ViT": "vit_base_patch32_clip_224",
    "SigLIP ViT": "vit_base_patch16_siglip_224",
    "BEiT": "beit_base_patch16_224",
    "EVA (RoPE)": "eva02_tiny_patch14_224",
    "CaiT": "cait_xxs24_224",
    "Swin v1": "swin_tiny_patch4_window7_224",
    "Swin v2": "swinv2_tiny_window8_256",
    "PVTv2": "pvt_v2_b0",
    "Twins": "twins_svt_small",
    "LeViT": "levit_128s",
    "EfficientFormer": "efficientformer_l1",
    "MobileViT": "mobilevit_xxs",
    "MobileViTv2": "mobilevitv2_050",
    "FastViT": "fastvit_t8",
    "PoolFormer": "poolformer_s12",
    "MaxViT": "maxvit_tiny_rw_224",
    "CoAtNet": "coatnet_0_rw_224",
    "Visformer": "visformer_tiny",
    "XCiT": "xcit_nano_12_p16_224",
    "MLP-Mixer": "mixer_s32_224",
    "ConvNeXt": "convnext_atto",
    "ResNet": "resnet18",
    "MobileNet": "mobilenetv3_small_050",
    "EfficientNet": "efficientnet_b0",
    "RepVGG": "repvgg_a0",
}

HEAD = """# Coverage: which of timm's models are restructured exactly

Written by `benchmarks/coverage.py`; do not edit. Each model is built at its native size with seeded random weights,
every parameter disturbed so that no fold hides behind a zero or a one. It runs once on seeded noise under torch;
its restructured form under onnxruntime must give the same outputs within 1e-5 of their range, and must hold no
tensor that is not 4-D, no Gemm and no norm operator, at opset 11. **This proves the mechanics of the rewrite and says
nothing about accuracy.** No model has an option of its own.

    .venv/bin/python -m benchmarks.coverage declare
    .venv/bin/python -m benchmarks.coverage sweep
    .venv/bin/python -m benchmarks.coverage write

"""


def write_page(declared: Mapping[str, Any], results: Iterable[Result], path: Path) -> None:
    """Write the page; of a model that was tried twice the last result counts."""
    latest = {r["name"]: r for r in results}
    sample = [latest[n] for n in declared["sample"] if n in latest]
    smallest = [latest[n] for n in declared["smallest"].values() if n in latest]
    families = [latest[n] for n in FAMILIES.values() if n in latest]
    lines = [HEAD, _summary(declared, sample, smallest, families)]
    lines += ["## The families that must pass\n", _families(latest)]
    lines += ["## Convolutional networks come out no worse than they went in\n", _cnns(latest.values())]
    lines += ["## What fails, and why\n", _failures(latest.values())]
    lines += ["## The declared sample\n", _table(sample)]
    lines += ["## The smallest variant of each architecture file\n", _table(smallest)]
    path.write_text("\n".join(lines))


def _summary(declared: Mapping[str, Any], *sets: Sequence[Result]) -> str:
    sample, smallest, families = sets
    rows = [
        "| set | tried | within 1e-5 | differ by no more than torch's own float32 | fail |",
        "|---|---|---|---|---|",
    ]
    of = {
        f"declared sample of {len(declared['sample'])}, seed {declared['seed']}": sample,
        f"smallest variant of each of {len(declared['smallest'])} architecture files": smallest,
        f"named families, {len(FAMILIES)}": families,
    }
    for name, found in of.items():
        passed, noisy = sum(r["passed"] for r in found), sum(map(_is_noise, found))
        share = passed / max(len(found), 1)
        rows.append(f"| {name} | {len(found)} | {passed} ({share:.1%}) | {noisy} | {len(found) - passed - noisy} |")
    note = (
        f"The sample is drawn from the {declared['eligible']} of timm {declared['timm']}'s {declared['models']} models "
        f"with at most {declared['largest_m']} million parameters; larger ones were not tried (24 GiB of memory here). "
        "The third column counts models whose random weights amplify rounding so much that torch's float32 is itself "
        "further than 5e-6 from torch's float64, with ours no further from float64 than twice that."
    )
    return "\n".join(rows) + f"\n\n{note}\n"


def _is_noise(result: Result) -> bool:
    noise: dict[str, float] = result.get("noise") or {"torch": 0.0, "ours": 1.0}
    return not result["passed"] and noise["torch"] > 1e-5 / 2 and noise["ours"] <= 2 * noise["torch"]


def _families(latest: Mapping[str, Result]) -> str:
    rows = ["| family | model | 4-D and equal | error | operations before | nodes after |", "|---|---|---|---|---|---|"]
    for family, name in FAMILIES.items():
        r = latest.get(name)
        if r is None:
            rows.append(f"| {family} | {name} | not tried | | | |")
        elif "error" in r:
            rows.append(f"| {family} | {name} | {_verdict(r)} | {r['error']:.1e} | {r['nodes_before']} | {_nodes(r)} |")
        else:
            rows.append(f"| {family} | {name} | no | | | |")
    return "\n".join(rows) + "\n\nOperations before: of torch's export, without constants; many only compute shapes.\n"


def _cnns(results: Iterable[Result]) -> str:
    found = [r for r in results if r["passed"] and not {"MatMul", "Softmax", "Sqrt"} & set(r["nodes"])]
    better = [r for r in found if _nodes(r) <= r["nodes_before"]]
    moved = sum(r["nodes"].get("Reshape", 0) + r["nodes"].get("Transpose", 0) == 0 for r in found)
    worse = ", ".join(f"{r['name']} ({r['nodes_before']} to {_nodes(r)})" for r in found if r not in better) or "none"
    return (
        f"Of {len(found)} networks without attention and without norms over channels, {len(better)} have no more nodes "
        f"than torch's export of them, and {moved} no Reshape and no Transpose at all. With more nodes: {worse}.\n"
    )


def _failures(results: Iterable[Result]) -> str:
    found = [r for r in results if not r["passed"]]
    if not found:
        return "Nothing.\n"
    rows = ["| model | reason |", "|---|---|"]
    for r in found:
        reason = r["reason"].replace("|", "/")[:220]
        if _is_noise(r):
            noise = r["noise"]
            reason += f" (float64 is {noise['torch']:.1e} from torch's float32 and {noise['ours']:.1e} from ours)"
        rows.append(f"| {r['name']} | {reason} |")
    return "\n".join(rows) + "\n"


def _table(results: Sequence[Result]) -> str:
    rows = [
        "| model | M params | pixels | result | error | nodes | Conv | MatMul | Softmax | Reshape, Transpose "
        "| CPU on X5 | CPU on X3 |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        if "error" not in r:
            rows.append(f"| {r['name']} | | | fails | | | | | | | | |")
            continue
        n: Counter[str] = Counter(r["nodes"])
        moved = n["Reshape"] + n["Transpose"]
        cpu = [_ops(r["cpu"][march]) for march in ("bayes-e", "bernoulli2")]
        rows.append(
            f"| {r['name']} | {r['parameters_m']} | {r['size']} | {_verdict(r)} | {r['error']:.1e} | {_nodes(r)} "
            f"| {n['Conv']} | {n['MatMul']} | {n['Softmax']} | {moved} | {cpu[0]} | {cpu[1]} |"
        )
    return (
        "\n".join(rows)
        + "\n\nCPU: operators that the march's op table leaves there without options (`bpudeploy inspect`).\n"
    )


def _verdict(result: Result) -> str:
    return "yes" if result["passed"] else "noise" if _is_noise(result) else "no"


def _nodes(result: Result) -> int:
    return sum(result["nodes"].values())


def _ops(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{op} {n}" for op, n in sorted(counts.items(), key=lambda c: -c[1])[:4]) or "none"
