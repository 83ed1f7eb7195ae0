"""The files that a build leaves behind. The artifact's bytes hold a time stamp: two builds never agree."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAGIC = {"bin": b"FAKEHBIN", "hbm": b"FAKEHHBM", "bc": b"FAKEHBBC"}


def artifact(path: Path, kind: str, facts: dict[str, Any]) -> None:
    """Write the magic, the facts as one line of JSON, and bytes that differ from run to run."""
    stamped = {**facts, "built_ns": time.time_ns(), "scratch": f"/tmp/tmp{secrets.token_hex(4)}"}
    path.write_bytes(MAGIC[kind] + json.dumps(stamped).encode() + b"\n" + os.urandom(256))


def facts_of(path: Path) -> dict[str, Any]:
    """Return what an artifact says of itself; for tests."""
    head = path.read_bytes().split(b"\n", 1)[0]
    found: dict[str, Any] = json.loads(head[8:])
    return found


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def with_vendor_ops(model: Any, op: str, inputs: Sequence[str]) -> Any:
    """Return a copy in which ``inputs`` pass through an operator of the domain horizon, as in the tools' files.

    onnxruntime cannot load it, nor can it load theirs.
    """
    from onnx import helper

    made = copy.deepcopy(model)
    for name in inputs:
        through = f"{name}_{op.lower()}"
        for node in made.graph.node:
            for i, read in enumerate(node.input):
                if read == name:
                    node.input[i] = through
        node_name = f"HZ_PREPROCESS_FOR_{name}" if "reprocess" in op else f"{name}_{op}"
        made.graph.node.insert(0, helper.make_node(op, [name], [through], name=node_name, domain="horizon"))
    if not any(e.domain == "horizon" for e in made.opset_import):
        made.opset_import.append(helper.make_opsetid("horizon", 1))
    return made


def save_onnx(model: Any, path: Path, images: Sequence[str], stage: str) -> None:
    """Write one of the intermediate models: ``stage`` is original, optimized, calibrated, ptq or quantized."""
    import onnx

    if stage in ("calibrated", "ptq"):
        every = [v.name for v in model.graph.input]
        made = with_vendor_ops(model, "HzCalibration", every[:1])
    elif stage == "quantized":
        made = with_vendor_ops(model, "HzSQuantizedPreprocess", list(images))
    else:
        made = with_vendor_ops(model, "HzPreprocess", list(images))
    onnx.save(made, str(path))


def static_json(latencies: Sequence[float], march: str, ddr: int) -> str:
    """Return a static performance file in the shape of the tools' own."""
    total = sum(latencies) or 1.0
    return json.dumps(
        {
            "summary": {
                "performance": {
                    "FPS": round(1e6 / total, 2),
                    "latency (us)": round(total, 1),
                    "latency (ms)": round(total / 1000, 4),
                    "latency (us) by segments": [round(v, 1) for v in latencies],
                },
                "DDR access data": {
                    "DDR megabytes per run": round(ddr / 2**20, 3),
                    "loaded bytes per run": ddr * 2 // 3,
                    "stored bytes per run": ddr // 3,
                    "min memory requirement": f"{ddr / 2**20:.1f} M",
                },
                "interval info": {"interval computing unit utilization": [0.5]},
                "layer details": [],
                "model info": {"BPU march": march, "BPU core number": 1, "double int8 macs": 0},
            },
            "details": [[]],
        },
        indent=1,
    )
