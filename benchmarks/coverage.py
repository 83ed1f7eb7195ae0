"""Which timm models restructure exactly: sweeps them and writes docs/reference/coverage.csv and coverage.md.

    .venv/bin/python -m benchmarks.coverage declare    # coverage_names.json: which names, before any is tried
    .venv/bin/python -m benchmarks.coverage sweep      # tries each once, appends to .bpudeploy/coverage.jsonl, resumes
    .venv/bin/python -m benchmarks.coverage write      # coverage.csv from the sweep, if any; coverage.md from it

Weights are random (seeded), with every parameter disturbed so that no fold hides behind a zero or a one: this
proves the mechanics of the rewrite, never accuracy. The original runs under torch, the rewrite under onnxruntime.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.coverage_page import FAMILIES, write
from bpudeploy.errors import StageError

NAMES = Path("benchmarks/coverage_names.json")
RESULTS = Path(".bpudeploy/coverage.jsonl")
SEED, COUNT = 20_261_124, 200
LARGEST_M = 400
"""Millions of parameters: four times a larger model's weights do not fit beside each other in 24 GiB."""
TOLERANCE = 1e-5
MARCHES = ("bayes-e", "bernoulli2")
_TASKS_A_PROCESS = 6


def declare() -> None:
    """Choose the names: each module's smallest variant, and a seeded sample of all others."""
    import torch

    from bpudeploy.stages.timm_models import timm

    package, sizes = timm(), dict[str, float]()
    warnings.simplefilter("ignore")
    for name in package.list_models():
        try:
            with torch.device("meta"):
                sizes[name] = sum(p.numel() for p in package.create_model(name).parameters()) / 1e6
        except Exception as error:  # what cannot be built on no device is built for real
            print(f"{name}: {type(error).__name__}: {str(error)[:80]}", file=sys.stderr)
            sizes[name] = sum(p.numel() for p in package.create_model(name).parameters()) / 1e6
    modules: dict[str, list[str]] = {}
    for name in sizes:
        modules.setdefault(package.models._registry._model_to_module[name], []).append(name)
    smallest = {module: min(names, key=lambda n: (sizes[n], n)) for module, names in sorted(modules.items())}
    eligible = sorted(n for n in sizes if sizes[n] <= LARGEST_M)
    chosen = sorted(random.Random(SEED).sample(eligible, COUNT))
    made = {
        "timm": package.__version__,
        "models": len(sizes),
        "eligible": len(eligible),
        "largest_m": LARGEST_M,
        "seed": SEED,
        "smallest": smallest,
        "sample": chosen,
    }
    NAMES.write_text(json.dumps(made, indent=1) + "\n")


def try_one(name: str) -> dict[str, Any]:
    """Return what became of one model; a failure is its reason, never an exception."""
    started = time.perf_counter()
    warnings.simplefilter("ignore")
    try:
        found = _restructure(name)
    except StageError as error:
        found = {"passed": False, "reason": error.message}
    except Exception as error:  # anything else is a bug of ours, and is published as one
        found = {
            "passed": False,
            "reason": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}",
        }
    return {"name": name, **found, "seconds": round(time.perf_counter() - started, 1)}


def _restructure(name: str) -> dict[str, Any]:
    from bpudeploy.stages.timm_models import create, describe

    model = create(name, image_size=None, num_classes=None)
    size = describe(model, name, None).image_size
    return {"size": size[0], **compare(model, (1, 3, *size))}


def compare(model: Any, shape: tuple[int, int, int, int]) -> dict[str, Any]:
    """Disturb a network's random weights, restructure it, and hold both against each other on noise."""
    import numpy as np
    import torch

    from bpudeploy.host import open_session
    from bpudeploy.restructure.bpu_form import form_errors
    from bpudeploy.restructure.export import network_of_module
    from bpudeploy.restructure.proof import random_input
    from bpudeploy.restructure.rewrite import rewrite
    from bpudeploy.stages.timm_models import reparameterized

    disturb(model)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    pixels = random_input(shape)
    with torch.inference_mode():
        made = model(torch.from_numpy(pixels))
    expected = [np.array(o) for o in (made if isinstance(made, list | tuple) else [made])]
    precise = copy.deepcopy(model)
    network = network_of_module(reparameterized(model), shape)
    before = Counter(o.op for o in network.operations)
    rewritten = rewrite(network)
    del model, network
    wrong = form_errors(rewritten.model)
    session = open_session(rewritten.model.SerializeToString())
    answers = session.run([o.name for o in rewritten.tensor_map.outputs], {session.get_inputs()[0].name: pixels})
    ours = [o.read(a) for o, a in zip(rewritten.tensor_map.outputs, answers, strict=True)]
    error = max(float(np.abs(a - b).max() / (np.ptp(b) or 1.0)) for a, b in zip(ours, expected, strict=True))
    noise = None if error <= TOLERANCE else _noise(precise, pixels, expected, ours)
    return {
        "passed": not wrong and error <= TOLERANCE,
        "reason": "; ".join(wrong[:2]) or ("" if error <= TOLERANCE else f"differs by {error:.1e} of the range"),
        "parameters_m": round(parameters, 1),
        "error": error,
        "noise": noise,
        "nodes_before": sum(before.values()),
        "convs_before": before["Conv"],
        "norms_before": before["BatchNormalization"] + before["LayerNormalization"],
        "nodes": dict(Counter(n.op_type for n in rewritten.model.graph.node)),
        "rules": rewritten.applied,
        "cpu": {march: _cpu_ops(rewritten.model, march) for march in MARCHES},
    }


def _noise(model: Any, pixels: Any, theirs: Any, ours: Any) -> dict[str, float]:
    """Return how far torch's float32 and ours are from torch's float64, each over the range."""
    import numpy as np
    import torch

    with torch.inference_mode():
        made = model.double()(torch.from_numpy(pixels).double())
    truth = [o.numpy() for o in (made if isinstance(made, list | tuple) else [made])]

    def far(answers: Any) -> float:
        return max(float(np.abs(a - t).max() / np.ptp(t)) for a, t in zip(answers, truth, strict=True))

    return {"torch": far(theirs), "ours": far(ours)}


def disturb(model: Any) -> None:
    """Change every parameter and statistic a little: initial values of zero and one hide folds."""
    import torch

    torch.manual_seed(SEED)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.mul_(1 + 0.2 * torch.rand_like(tensor))
            elif name.endswith("running_mean") or (
                tensor.ndim <= 1 and dict(model.named_parameters()).get(name) is not None
            ):
                tensor.add_(0.1 * torch.randn_like(tensor))
            elif tensor.ndim > 1 and not tensor.any():
                tensor.copy_(0.05 * torch.randn_like(tensor))


def _cpu_ops(model: Any, march: str) -> dict[str, int]:
    from bpudeploy.conformance.placement import placement
    from bpudeploy.conformance.report import Device
    from bpudeploy.spec.target import March

    found = placement(model, March(march), trained=False)
    return dict(Counter(n.op for n in found.nodes if n.device is Device.CPU))


def sweep(only: list[str]) -> None:
    """Try every declared name that has no result yet, a fresh process every few models."""
    declared = json.loads(NAMES.read_text())
    done = {json.loads(line)["name"] for line in RESULTS.read_text().splitlines()} if RESULTS.exists() else set()
    wanted = [*FAMILIES.values(), *declared["smallest"].values(), *declared["sample"]]
    names = [n for n in dict.fromkeys(wanted) if n not in done]
    names = only or names
    RESULTS.parent.mkdir(exist_ok=True)
    while names:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            try:
                for found in pool.map(try_one, names[:_TASKS_A_PROCESS]):
                    _keep(found, len(names))
                    names = names[1:]
            except BrokenProcessPool:
                _keep(
                    {"name": names[0], "passed": False, "reason": "the process was killed: out of memory"}, len(names)
                )
                names = names[1:]


def _keep(found: dict[str, Any], left: int) -> None:
    with RESULTS.open("a") as file:
        file.write(json.dumps(found) + "\n")
    said = f"error {found['error']:.1e}" if "error" in found else ""
    print(f"{left:>4} {'ok  ' if found['passed'] else 'FAIL'} {found['name']:<45} {said} {found['reason']}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("declare", "sweep", "write"))
    parser.add_argument("names", nargs="*", help="sweep only these")
    args = parser.parse_args()
    if args.what == "declare":
        declare()
    elif args.what == "sweep":
        sweep(args.names)
    else:
        swept = RESULTS.read_text().splitlines() if RESULTS.exists() else []
        write(json.loads(NAMES.read_text()), [json.loads(line) for line in swept])
