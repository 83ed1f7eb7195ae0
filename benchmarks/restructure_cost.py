"""What the rewrite itself costs: seconds and memory to restructure, prove and export one model.

    .venv/bin/python -m benchmarks.restructure_cost deit_base_patch16_224

Runs the stages that a recipe runs (reference, restructure) on random weights and eight noise images. Memory is the
process's peak resident size above what it was with torch, timm, onnx and onnxruntime imported, against the size
of the weights. Last, what a session of the result holds with and without onnxruntime's layout optimisations.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

IMAGES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="deit_base_patch16_224")
    name = parser.parse_args().model
    import numpy as np
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    from safetensors.numpy import save_file

    from bpudeploy.digest import digest_file
    from bpudeploy.stage import Artifact, Kind, StepContext
    from bpudeploy.stages.options import NoOptions
    from bpudeploy.stages.restructure import RestructureOptions, reference, restructure
    from bpudeploy.stages.timm_models import create, describe, save_model

    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        model = create(name, image_size=None, num_classes=None)
        meta = describe(model, name, None)
        save_model(model, meta, folder / "model.safetensors")
        weights = (folder / "model.safetensors").stat().st_size / 1e6
        del model
        (folder / "preprocess.json").write_text(
            json.dumps({"size": meta.image_size, "mean": meta.mean, "std": meta.std})
        )
        pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, *meta.image_size, 3), dtype=np.uint8)
        classes = json.dumps([str(i) for i in range(meta.num_classes)])
        save_file(
            {"pixels": pixels, "labels": np.zeros(IMAGES, np.int64)},
            folder / "samples.safetensors",
            {"classes": classes},
        )
        work = StepContext(folder, lambda event: None)

        def artifact(kind: Kind, path: Path) -> Artifact:
            return Artifact(kind, digest_file(path), path)

        inputs = (
            artifact(Kind.MODEL, folder / "model.safetensors"),
            artifact(Kind.PREPROCESS, folder / "preprocess.json"),
            artifact(Kind.SAMPLES, folder / "samples.safetensors"),
        )
        before = resident()
        _reset_peak()
        started = time.perf_counter()
        (scores,) = reference(work, NoOptions(), inputs)
        middle = time.perf_counter()
        reference_peak = peak()
        scores = scores.rename(folder / "reference.safetensors")
        _reset_peak()
        restructure(work, RestructureOptions(1e-5), (*inputs, artifact(Kind.SCORES, scores)))
        done = time.perf_counter()
        print(f"{name}: weights {weights:.0f} MB, {IMAGES} images, resident before {before:.0f} MB")
        print(f"  reference (torch)    {middle - started:6.1f} s, peak {reference_peak:6.0f} MB")
        above = (peak() - before) / weights
        print(f"  restructure, prove, export {done - middle:6.1f} s, peak {peak():6.0f} MB")
        print(f"  {above:.2f} times the weights above the start")
        for level in ("ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                held, median = pool.submit(session_cost, str(folder / "graph.onnx"), level).result()
            print(f"  a session of it with {level}: {held / weights:.2f} times the weights, {median:.0f} ms an image")


def session_cost(graph: str, level: str) -> tuple[float, float]:
    """Return the MB that a session of ``graph`` holds, and its median ms over nine runs."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    before = resident()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    times = []
    for _ in range(9):
        started = time.perf_counter()
        session.run(None, {given.name: np.zeros(given.shape, np.float32)})
        times.append((time.perf_counter() - started) * 1e3)
    return peak() - before, sorted(times)[4]


def resident() -> float:
    """Return the resident size of this process in MB."""
    return float(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """Return the peak resident size since the last reset in MB."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM:"))
    return float(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
