"""What runs on the board: one file, standard library plus numpy and the runtime. Prints JSON lines.

    python3 agent.py --model M.onnx --samples S.safetensors --warmup 10 --min-frames 100 --min-seconds 5

It ends when its standard input closes, so a lost connection leaves nothing running.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable

_CHUNK = 50


def say(kind: str, **fields: object) -> None:
    sys.stdout.write(json.dumps({"kind": kind, **fields}, allow_nan=False) + "\n")
    sys.stdout.flush()


def leave_with_the_connection() -> None:
    def watch() -> None:
        while os.read(0, 4096):  # not sys.stdin: its lock, held here, would abort the interpreter's own ending
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def read_text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def facts(runtime: str) -> dict[str, Any]:
    """Return what this board says of itself; None for what it does not tell."""
    info, memory = read_text("/proc/cpuinfo") or "", read_text("/proc/meminfo") or ""
    release = dict(line.split("=", 1) for line in (read_text("/etc/os-release") or "").splitlines() if "=" in line)
    cpu = [line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith(("model name", "Hardware"))]
    total = [int(line.split()[1]) for line in memory.splitlines() if line.startswith("MemTotal:")]
    heat = read_text("/sys/class/thermal/thermal_zone0/temp")
    return {
        "hostname": platform.node(),
        "machine": platform.machine(),
        "cpu": cpu[0] if cpu else read_text("/proc/device-tree/model"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": total[0] * 1024 // 1000000 if total else None,
        "os": release.get("PRETTY_NAME", platform.system()).strip('"'),
        "python": platform.python_version(),
        "runtime": runtime,
        "temperature_c": int(heat) / 1000 if heat and heat.lstrip("-").isdigit() else None,
        "governor": read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_1min": os.getloadavg()[0],
    }


def read_samples(path: Path) -> tuple[Any, Any]:
    """Map a safetensors file's `pixels` uint8 (N, H, W, 3) and `labels` int64 (N,); nothing is copied.

    Format: https://huggingface.co/docs/safetensors/index#format
    """
    import numpy

    size = path.stat().st_size
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if not 0 < length <= min(size - 8, 100_000_000):
            raise ValueError("not a safetensors file")
        header = json.loads(stream.read(length))

    def tensor(name: str, dtype: str, code: str, rank: int) -> Any:
        entry = header[name]
        begin, end = entry["data_offsets"]
        array = numpy.dtype(dtype)
        count = 1
        for dimension in entry["shape"]:
            count *= dimension
        if entry["dtype"] != code or len(entry["shape"]) != rank or end - begin != count * array.itemsize:
            raise ValueError(f"{name} is not what it should be")
        if not 0 <= begin <= end <= size - 8 - length:
            raise ValueError(f"{name} lies outside the file")
        return numpy.memmap(path, array, "r", 8 + length + begin, tuple(entry["shape"]))

    pixels, labels = tensor("pixels", "u1", "U8", 4), tensor("labels", "<i8", "I64", 1)
    if len(pixels) != len(labels) or not len(labels):
        raise ValueError("pixels and labels do not match")
    return pixels, labels


def load(model: str, threads: int) -> tuple[Callable[[Any], Any], int, str]:
    """Return a function from pixels (N, H, W, 3) to logits (N, classes), its N, and the runtime's name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (given,), (wanted,) = session.get_inputs(), session.get_outputs()
    runtime = f"onnxruntime {onnxruntime.__version__}"
    return lambda pixels: session.run([wanted.name], {given.name: pixels})[0], int(given.shape[0]), runtime


def frame(pixels: Any, first: int, batch: int) -> Any:
    """Return ``batch`` images from ``first`` on, beginning again at the end."""
    return pixels[[(first + i) % len(pixels) for i in range(batch)]]


def measure(
    infer: Callable[[Any], Any], pixels: Any, batch: int, warmup: int, min_frames: int, min_seconds: float
) -> None:
    """Time frames of ``batch`` images, one after another, until both minima are met; warm-up is not timed."""
    for i in range(warmup):
        infer(frame(pixels, i * batch, batch))
    chunk: list[float] = []
    frames, started = 0, time.perf_counter()
    while frames < min_frames or time.perf_counter() - started < min_seconds:
        fed = frame(pixels, frames * batch, batch)
        before = time.perf_counter_ns()
        infer(fed)
        chunk.append((time.perf_counter_ns() - before) / 1e6)
        frames += 1
        if len(chunk) == _CHUNK:
            say("latencies", ms=chunk)
            chunk = []
    say("latencies", ms=chunk)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--warmup", type=int, required=True)
    parser.add_argument("--min-frames", type=int, required=True)
    parser.add_argument("--min-seconds", type=float, required=True)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    leave_with_the_connection()
    pixels, labels = read_samples(args.samples)
    started = time.perf_counter()
    infer, batch, runtime = load(args.model, args.threads)
    loaded = time.perf_counter() - started
    say("facts", **facts(runtime))
    say("loaded", seconds=loaded, batch=batch)
    measure(infer, pixels, batch, args.warmup, args.min_frames, args.min_seconds)
    for first in range(0, len(labels), batch):
        rows = infer(frame(pixels, first, batch)).reshape(batch, -1)
        for i in range(first, min(first + batch, len(labels))):
            values = [float(v) for v in rows[i - first]]
            say("logits", index=i, of=len(labels), label=int(labels[i]), values=values)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    say("done", images=len(labels), peak_memory_mb=peak)
    sys.stdout.flush()
    os._exit(0)  # the watcher still waits for input


if __name__ == "__main__":
    main()
