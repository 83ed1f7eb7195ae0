"""Original against restructured: operations, equality, multiply-adds and onnxruntime latency, in one run.

    .venv/bin/python -m benchmarks.restructured_speed
    .venv/bin/python -m benchmarks.restructured_speed deit_small_patch16_224 --pairs 100

Random weights, so nothing here is an accuracy. The original is torch's own ONNX export (opset 17, weights inside).
Both run under onnxruntime with all its optimisations on this machine's CPU, in turn, frame by frame, neither spinning
while the other works. A latency is a median; its ratio has a 95 % interval from the paired frames. **A CPU is not a
BPU:** the ratio says what the rewrite costs or gains here, not there.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np

from bpudeploy.conformance.placement import placement
from bpudeploy.conformance.report import Form
from bpudeploy.restructure.export import export_whole, network_of_module
from bpudeploy.restructure.proof import random_input
from bpudeploy.restructure.rewrite import rewrite
from bpudeploy.spec.target import March
from bpudeploy.stages.timm_models import create, describe, reparameterized

MODELS = ("deit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224", "swin_tiny_patch4_window7_224")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--pairs", type=int, default=40)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    titles = "model, operations before, nodes after, Conv, MatMul, Transpose, GMAC before, GMAC after, error"
    titles += ", original ms, ours ms, ours / original"
    print("| " + titles.replace(", ", " | ") + " |")
    print("|---" * 12 + "|")
    for name in args.models:
        print(_row(name, args.pairs), flush=True)


def _row(name: str, pairs: int) -> str:
    from benchmarks.coverage import disturb

    model = create(name, image_size=None, num_classes=None)
    disturb(model)
    shape = (1, 3, *describe(model, name, None).image_size)
    model = reparameterized(model)
    network = network_of_module(model, shape)
    rewritten = rewrite(network)
    exported = export_whole(model, shape)
    pixels = random_input(shape)
    before, after = (_session(m.SerializeToString()) for m in (exported, rewritten.model))
    fed = before.get_inputs()[0].name
    expected = before.run(None, {fed: pixels})[0]
    made = rewritten.tensor_map.outputs[0].read(after.run(None, {"pixels": pixels})[0])
    error = float(np.abs(made - expected).max() / np.ptp(expected))
    times = _paired(lambda: before.run(None, {fed: pixels}), lambda: after.run(None, {"pixels": pixels}), pairs)
    low, ratio, high = _ratio(times)
    before_macs, after_macs = _gmac(exported, Form.ORIGINAL), _gmac(rewritten.model, Form.RESTRUCTURED)
    ops = [n.op_type for n in rewritten.model.graph.node]
    one, two = np.median(times, axis=0) * 1e3
    return (
        f"| {name} | {len(network.operations)} | {len(ops)} | {ops.count('Conv')} | {ops.count('MatMul')} "
        f"| {ops.count('Transpose')} | {before_macs:.3f} | {after_macs:.3f} | {error:.1e} | {one:.1f} | {two:.1f} "
        f"| {ratio:.2f} ({low:.2f} to {high:.2f}) |"
    )


def _gmac(model: Any, form: Form) -> float:
    return sum(n.cost.macs for n in placement(model, March.BAYES_E, (), form, trained=False).nodes) / 1e9


def _session(model: bytes) -> Any:
    """Return a session as a deployment would open it, which does not spin while it waits for the other's turn."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _paired(first: Any, second: Any, pairs: int) -> Any:
    for _ in range(5):
        first(), second()
    times = np.empty((pairs, 2))
    for i in range(pairs):
        for j in (0, 1) if i % 2 else (1, 0):
            started = time.perf_counter()
            (first, second)[j]()
            times[i, j] = time.perf_counter() - started
    return times


def _ratio(times: Any) -> tuple[float, float, float]:
    """Return the median of the paired ratios with a bootstrap interval."""
    ratios = times[:, 1] / times[:, 0]
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
    return float(np.quantile(medians, 0.025)), float(np.median(ratios)), float(np.quantile(medians, 0.975))


if __name__ == "__main__":
    main()
