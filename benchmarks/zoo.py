"""What is known about the recipes of the zoo, and docs/reference/zoo.md made from it.

    .venv/bin/python -m benchmarks.zoo count      # zoo_counts.json, of recipes without counts or of those named
    .venv/bin/python -m benchmarks.zoo measured   # zoo_measured.json, from a results database (--results URL)
    .venv/bin/python -m benchmarks.zoo write      # docs/reference/zoo.md, from both; needs neither torch nor timm

``count`` builds each recipe's network with random weights (disturbed, seeded): it proves the rewrite on noise, and
counts what both forms ask of each target's march. No time is in the counts: ``write`` prices them with the latency
model as it is today. ``measured`` takes what runs of these recipes measured, on whatever board.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.zoo_page import COUNTS, MEASURED, PAGE, Counts, page, read_counts, read_measured
from bpudeploy.spec.load import load_recipe
from bpudeploy.spec.module import ModuleRef
from bpudeploy.spec.recipe import ModelSpec
from bpudeploy.spec.source import Source

if TYPE_CHECKING:
    import torch

    from bpudeploy.predict.estimate import Estimate
    from bpudeploy.results.measurement import Latency, Measurement

ZOO = Path("recipes/zoo")


def recipes() -> list[Path]:
    """Return the zoo's recipes, without what they share."""
    return sorted(path for path in ZOO.glob("*.yaml") if path.name != "base.yaml")


def count(path: Path) -> dict[str, Any]:
    """Return what is counted and proven of one recipe, for each of its targets."""
    from benchmarks.coverage import compare
    from bpudeploy.cli.verbs.estimate import predicted_on
    from bpudeploy.inspection import load_models

    every = load_recipe(path, to_look=True)
    boards: dict[str, Any] = {}
    before, after = (load_models(str(path), original=form, image_size=None) for form in (True, False))
    for resolved, (original, _), (rewritten, _) in zip(every, before, after, strict=True):
        answer = predicted_on(resolved.target, original, rewritten, resolved.recipe.quantize.int16)
        boards[resolved.target.name] = {
            "restructured": _amounts(answer.restructured[0]),
            "original": _amounts(answer.original),
        }
    placed = after[0][0].on(every[0].target).placement.nodes
    network, shape = build(every[0].recipe.model)
    proof = compare(network, shape)
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    kept = ("passed", "reason", "error", "noise")
    return {
        "model": every[0].recipe.model.source or every[0].recipe.model.module,
        "pixels": shape[2],
        "parameters_m": round(millions, 1 if millions > 1 else 3),
        "gmacs": round(sum(n.cost.macs for n in placed) / 1e9, 3),
        "nodes": sum(proof["nodes"].values()),
        **{name: proof[name] for name in kept},
        "boards": boards,
    }


def build(spec: ModelSpec) -> tuple[torch.nn.Module, tuple[int, int, int, int]]:
    """Return a recipe's network, untrained (seeded), and the shape of its input."""
    import torch

    from benchmarks.coverage import SEED
    from bpudeploy.stages.fetch_module import NetworkFactory, load_network
    from bpudeploy.stages.timm_models import create, describe

    if spec.module is not None:
        module, side = ModuleRef.parse(spec.module), spec.image_size
        assert isinstance(side, int)
        network = load_network(Path(module.path), NetworkFactory(module.path, module.name, spec.arguments))
        return network, (1, 3, side, side)
    name = Source.parse(spec.location).locator
    torch.manual_seed(SEED)
    network = create(name, image_size=spec.image_size, num_classes=None)
    return network, (1, 3, *describe(network, name, spec.image_size).image_size)


def _amounts(estimate: Estimate) -> dict[str, Any]:
    """Return the amounts behind a prediction (int16 counted as more of the same), and its nodes by device."""
    from bpudeploy.predict.march import march_model

    rates = march_model(estimate.march).rates
    amounts = {t.value: float(f"{ms / rates[t]:.6g}") for t, ms in estimate.by_term_ms.items() if ms}
    return {"amounts": amounts, "segments": estimate.segments, "cpu_nodes": estimate.cpu_nodes}


def count_all(names: Sequence[str]) -> None:
    """Count the recipes named, else those that have no counts; each is written as soon as it is known."""
    for path in recipes():
        if path.stem in names or (not names and path.stem not in _known()):
            started = time.perf_counter()
            found = count(path)
            COUNTS.write_text(json.dumps({**_known(), path.stem: found}, indent=1, sort_keys=True) + "\n")
            said = f"{found['error']:.1e} {found['reason']}"
            print(f"{path.stem:<24} {said}, {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


def _known() -> Counts:
    return read_counts() if COUNTS.exists() else {}


def measured(url: str | None) -> None:
    """Write what runs of the zoo's recipes measured: the latest of each recipe, target and device."""
    from bpudeploy.provenance import Provenance
    from bpudeploy.results.store import Query, open_results

    found: dict[str, Any] = {}
    with open_results(url) as results:
        for path in recipes():
            for name in {path.stem, *(r.recipe.name for r in load_recipe(path, to_look=True))}:
                for one in results.find(Query(recipe=name, provenance=Provenance.MEASURED, with_samples=False)):
                    if one.latency is not None:  # the newest comes first
                        key = f"{path.stem} {one.subject.target} {one.device}"
                        found.setdefault(key, _kept(path.stem, one, one.latency))
    MEASURED.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def _kept(recipe: str, one: Measurement, latency: Latency) -> dict[str, Any]:
    return {
        "recipe": recipe,
        "target": one.subject.target,
        "device": one.device,
        "cpu": one.facts.cpu if one.facts else None,
        "made": one.made,
        "release": one.subject.release,
        "p50_ms": latency.p50_ms.model_dump(),
        "top1": one.score.top1.model_dump() if one.score else None,
        "images": one.score.images if one.score else None,
        "caveats": list(one.caveats),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("count", "measured", "write"))
    parser.add_argument("names", nargs="*", help="count only these")
    parser.add_argument("--results", help="the results database, as `bpudeploy history` has it")
    args = parser.parse_args()
    if args.what == "count":
        count_all(args.names)
    elif args.what == "measured":
        measured(args.results)
    else:
        PAGE.write_text(page(read_counts(), read_measured()))
