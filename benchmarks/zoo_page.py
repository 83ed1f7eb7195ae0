"""docs/zoo.md from what was counted, priced by the latency model, and from what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bpudeploy.predict.estimate import TotalLatency, total_latency
from bpudeploy.predict.march import MarchModel, Term, march_model
from bpudeploy.spec.load import load_target

COUNTS = Path(__file__).with_name("zoo_counts.json")
MEASURED = Path(__file__).with_name("zoo_measured.json")
PAGE = Path(__file__).parents[1] / "docs" / "zoo.md"
Counts = dict[str, dict[str, Any]]
BOARDS = {"rdk-x3": "RDK X3", "rdk-x5": "RDK X5", "rdk-s100": "RDK S100"}
UNKNOWN = "not yet known"
FAMILIES = {
    "DeiT": ("deit-tiny", "deit-small", "deit-base", "deit-tiny-distilled", "deit-small-distilled", "deit3-small"),
    "ViT": ("vit-tiny", "vit-small", "vit-base"),
    "Visformer": ("visformer-tiny", "visformer-small"),
    "CMT": ("cmt-tiny",),
    "CoAtNet": ("coatnet-0",),
    "Swin": ("swin-tiny", "swin-small"),
    "EfficientFormer": ("efficientformer-l1", "efficientformer-l3", "efficientformerv2-s0"),
    "MobileViT": ("mobilevit-xxs", "mobilevit-xs", "mobilevit-s", "mobilevitv2-100"),
    "ResNet": ("resnet18", "resnet50"),
    "MobileNet": ("mobilenetv2-100", "mobilenetv3-large-100", "mobilenetv4-conv-small"),
    "Inspection CNN": ("inspection-cnn",),
}

HEAD = """# The zoo: what is known of each network on each board

Written by `python -m benchmarks.zoo write`; do not edit. The recipes are in `recipes/zoo`, one a network, each for
three boards: `bpudeploy validate`, `plan` and `estimate` take them as they stand. What a run of one needs besides is
said by `validate`: your images, and the pin of its weights.

**{measured}** Predicted times are those of [the latency model](latency-model.md),
which was fitted to no vision transformer; `bpudeploy estimate` gives the same figures with what they
rest on. "{unknown}": nobody has run that here.

    .venv/bin/python -m benchmarks.zoo count
    .venv/bin/python -m benchmarks.zoo measured
    .venv/bin/python -m benchmarks.zoo write
"""
EQUAL = """
GMACs: of the rewritten graph. Equal: the rewritten form under onnxruntime against the original under torch, worst
difference over the range of the outputs, on seeded noise, with random disturbed weights. This is the mechanics of the
rewrite, and no accuracy. CMT is in `recipes/zoo/cmt.py`, written after its paper: timm has none.
"""


def read_counts() -> Counts:
    """Return what was counted of each recipe."""
    found: Counts = json.loads(COUNTS.read_text())
    return found


def read_measured() -> Counts:
    """Return what was measured, by recipe, target and device."""
    found: Counts = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    return found


def page(counts: Mapping[str, Any], measured: Mapping[str, Any]) -> str:
    """Return the page."""
    on_boards = sum(one["target"] in BOARDS for one in measured.values())
    were = "was" if on_boards == 1 else "were"
    said = (
        f"{on_boards} of the figures below {were} measured on a board." if on_boards else "No board has run any of it."
    )
    parts = [HEAD.format(measured=said, unknown=UNKNOWN), "## The networks\n", _networks(counts)]
    for target, board in BOARDS.items():
        parts += [f"## {board}\n", _board(target, counts, measured)]
    others = [one for one in measured.values() if one["target"] not in BOARDS]
    parts += ["## Measured elsewhere\n", _elsewhere(others)]
    return "\n".join(parts)


def priced(counted: Mapping[str, Any], model: MarchModel) -> TotalLatency:
    """Return what amounts take at today's rates."""
    return total_latency({Term(t): amount * model.rates[Term(t)] for t, amount in counted["amounts"].items()}, model)


def _networks(counts: Mapping[str, Any]) -> str:
    rows = [
        "| family | recipe | weights, class | pixels | M parameters | GMACs | 4-D nodes | equal to the original |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for family, names in FAMILIES.items():
        for name in names:
            r = counts.get(name)
            if r is None:
                rows.append(f"| {family} | {name} | | | | | | {UNKNOWN} |")
                continue
            size = f"{r['pixels']} | {r['parameters_m']:g} | {r['gmacs']:.2f} | {r['nodes']}"
            rows.append(f"| {family} | {name} | `{_origin(r['model'])}` | {size} | {_equal(r)} |")
    return "\n".join(rows) + f"\n{EQUAL}"


def _origin(named: str) -> str:
    return named.removeprefix("timm:") if named.startswith("timm:") else Path(named).name


def _equal(r: Mapping[str, Any]) -> str:
    if r["passed"]:
        return f"yes, {r['error']:.0e}"
    noise = r["noise"]
    if noise is not None and noise["torch"] > 5e-6 and noise["ours"] <= 2 * noise["torch"]:
        return f"as near to float64 as torch's float32: {noise['ours']:.0e}, {noise['torch']:.0e}"
    return f"no: {r['reason']}"


def _board(target: str, counts: Mapping[str, Any], measured: Mapping[str, Any]) -> str:
    model = march_model(load_target(target, Path())[0].march)
    rows = [
        "| recipe | predicted ms (90 % interval) | mostly | CPU nodes | rewrite, predicted | measured p50 ms "
        "| top-1 % on the board |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in (n for names in FAMILIES.values() for n in names):
        one = next((m for m in measured.values() if (m["recipe"], m["target"]) == (name, target)), None)
        p50, top1 = (_latency(one), _shown(one["top1"])) if one else (UNKNOWN, UNKNOWN)
        forms = counts[name]["boards"].get(target) if name in counts else None
        if forms is None:
            rows.append(f"| {name} | {UNKNOWN} | | | | {p50} | {top1} |")
            continue
        ours, theirs = priced(forms["restructured"], model), priced(forms["original"], model)
        bound = max(ours.by_bound_ms, key=lambda b: ours.by_bound_ms[b])
        interval = f"{ours.predicted_low_ms:.3g} to {ours.predicted_high_ms:.3g}"
        gain = f"{theirs.predicted_ms / ours.predicted_ms:.2f}x"
        cpu = forms["restructured"]["cpu_nodes"]
        rows.append(f"| {name} | {ours.predicted_ms:.3g} ({interval}) | {bound} | {cpu} | {gain} | {p50} | {top1} |")
    return "\n".join(rows) + f"\n\nThe prediction is {model.basis[0].lower()}{model.basis[1:]}.\n"


def _shown(interval: Mapping[str, float] | None) -> str:
    return f"{interval['value']:.4g} ({interval['low']:.4g} to {interval['high']:.4g})" if interval else UNKNOWN


def _latency(one: Mapping[str, Any]) -> str:
    return ", ".join([_shown(one["p50_ms"]), *one["caveats"]])


def _elsewhere(found: list[Mapping[str, Any]]) -> str:
    if not found:
        return "Nothing.\n"
    rows = [
        "| recipe | target | computed by | p50 ms (95 % interval) | top-1 % (95 % interval) | images | release |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in sorted(found, key=lambda m: (m["recipe"], m["target"])):
        device = f"{one['device']}, {one['cpu']}" if one["cpu"] else one["device"]
        figures = f"{_latency(one)} | {_shown(one['top1'])} | {one['images'] or ''}"
        rows.append(f"| {one['recipe']} | {one['target']} | {device} | {figures} | {one['release'][:12]} |")
    return "\n".join(rows) + "\n"
