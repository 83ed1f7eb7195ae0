"""Our INT8 against onnxruntime's and NNCF's: accuracy, seconds and memory on one graph and the same images.

    python3 -m venv /tmp/peers-venv
    /tmp/peers-venv/bin/pip install -c constraints.txt nncf==3.4.0 onnx onnxruntime pydantic safetensors
    .venv/bin/python -m benchmarks.int8_peers recipes/quickstart.yaml --peers-python /tmp/peers-venv/bin/python
    .venv/bin/python -m benchmarks.int8_peers recipes/quickstart.yaml --flatness 8,64,512

benchmarks/flowers.yaml wants its head first: bpudeploy fit-head benchmarks/flowers-head.yaml --out
.bpudeploy/flowers-head.safetensors.

Every method is given the restructured float graph (what goes into the recipe's quantize step), as opset 13 and, for
onnxruntime, after its quant_pre_process, for which no time is counted. All follow the BPU's rules: int8, symmetric,
weights by output channel, Conv and MatMul only, and the nodes that the graph keeps in float stay so. "stronger" is
onnxruntime with what comes out of Conv and MatMul left as it is, observers of |x| and one image at a time.

Each runs alone in a fresh process. Seconds and CPU seconds (user and system, all threads and children) run from
when its libraries are loaded to the quantized file; peak memory is the whole process's, from wait4. The line "loaded"
is that process with the float model read and nothing done. Accuracy is onnxruntime's, on all of the evaluation set.
"integer nodes" are the Conv and MatMul whose inputs are both quantized, of all that there are (the graph keeps some in
float); "other nodes" are what a method adds besides QDQ pairs, such as the multiplications of SmoothQuant.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.int8_peer_methods import METHODS, Job

ROOT = Path(__file__).parents[1]
FLATNESS = ("ours", "ort-percentile", "ort-percentile-stronger")
SPARE_GIB = 1.0
"""A method is stopped when the whole machine has less than this left: others run on it."""


@dataclass(frozen=True)
class Limits:
    """What one method may take."""

    gib: float
    minutes: float


@dataclass(frozen=True)
class Cost:
    """What one process took; seconds run from when it was loaded. ``failure`` says why there is no result."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    loading_seconds: float
    failure: str | None


@dataclass(frozen=True)
class Row:
    """One method on ``images`` calibration images; ``quality`` as int8_peer_steps.evaluate writes it."""

    method: str
    images: int
    cost: Cost | None
    quality: dict[str, Any] | None


def gib_of(path: str, key: str) -> float:
    """Return one line of /proc/meminfo or of a process's status, which are in KiB; 0 when it has gone."""
    try:
        lines = Path(path).read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith(f"{key}:")), 0.0)


def too_much(pid: int, seconds: float, limits: Limits) -> str | None:
    """Return why a process has to be stopped, if it has to."""
    if gib_of(f"/proc/{pid}/status", "VmRSS") > limits.gib:
        return f"stopped: more than {limits.gib:g} GiB"
    if gib_of("/proc/meminfo", "MemAvailable") < SPARE_GIB:
        return "stopped: the machine has no memory left"
    return f"stopped: more than {limits.minutes:g} minutes" if seconds > 60 * limits.minutes else None


def measure(python: str, what: Sequence[str], folder: Path, limits: Limits) -> Cost:
    """Run one step of int8_peer_steps alone and account for it.

    This process stays small (it imports no numpy), because a new process's peak begins at its parent's size.
    """
    mark, log = folder / "started.json", folder / "log"
    mark.unlink(missing_ok=True)
    command = [python, "-m", "benchmarks.int8_peer_steps", *what]
    started, failure = time.monotonic(), None
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        while not (waited := os.wait4(process.pid, os.WNOHANG))[0]:
            if failure is None and (failure := too_much(process.pid, time.monotonic() - started, limits)):
                process.kill()
            time.sleep(0.05)
    except BaseException:
        process.kill()
        raise
    _, status, used = waited
    finished = time.monotonic()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode and failure is None:
        lines = log.read_text(errors="replace").strip().splitlines()
        last = lines[-1].strip().replace("|", "/") if lines else ""
        failure = f"died (exit {process.returncode}): {last[:120]}"
    loaded = json.loads(mark.read_text()) if mark.exists() else {"clock": started, "cpu": 0.0}
    return Cost(
        seconds=finished - loaded["clock"],
        cpu_seconds=used.ru_utime + used.ru_stime - loaded["cpu"],
        peak_mb=used.ru_maxrss * 1024 / 1e6,
        loading_seconds=loaded["clock"] - started,
        failure=failure,
    )


def compare(
    names: Sequence[str], pythons: dict[str, str], folder: Path, limits: Limits, evaluate: int | None
) -> list[Row]:
    """Run each method and measure what it made (on ``evaluate`` images), one after the other."""
    job, rows = Job.read(folder), []
    for name in names:
        python = pythons[METHODS[name].package]
        cost, quality = measure(python, ("quantize", name, str(folder)), folder, limits), None
        if evaluate and cost.failure is None:
            try:
                quality = assess(name, folder, evaluate)
            except subprocess.CalledProcessError:
                cost = replace(cost, failure="its file cannot be evaluated: see above")
        shutil.rmtree(folder / f"{name}.work", ignore_errors=True)
        (folder / f"{name}.onnx").unlink(missing_ok=True)
        rows.append(Row(name, job.images, cost, quality))
        top1 = f", top-1 {quality['top1']:.2f} %" if quality else ""
        said = cost.failure or f"{cost.seconds:.1f} s, {cost.peak_mb:.0f} MB{top1}"
        print(f"{METHODS[name].title}, {job.images} images: {said}", file=sys.stderr, flush=True)
    return rows


def assess(name: str, folder: Path, images: int) -> dict[str, Any]:
    """Return what a method, or float, does on the first ``images`` of the evaluation set."""
    command = [sys.executable, "-m", "benchmarks.int8_peer_steps", "evaluate", name, str(folder), str(images)]
    subprocess.run(command, cwd=ROOT, check=True)
    quality: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return quality


def prepare(recipe: Path, folder: Path, sets: Sequence[str]) -> None:
    """Make the job of ``folder``."""
    command = [sys.executable, "-m", "benchmarks.int8_peer_steps", "prepare", str(recipe), str(folder), *sets]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = done.stdout.strip().splitlines() or [""]
    if done.returncode:
        raise SystemExit(f"cannot prepare {recipe}: {lines[-1]}")
    print(lines[-1])


def versions(python: str) -> dict[str, str]:
    """Return the versions of what takes part in one environment; empty when it cannot run NNCF's methods."""
    code = (
        "import json, platform, importlib.metadata as m, pydantic, safetensors\n"
        "names = ['onnx', 'onnxruntime', 'numpy', 'nncf']\n"
        "have = {d.metadata['Name'].lower() for d in m.distributions()}\n"
        "print(json.dumps({'python': platform.python_version()} | {n: m.version(n) for n in names if n in have}))"
    )
    try:
        done = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return {}
    found: dict[str, str] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found


def machine() -> str:
    """Return the processor, its cores, the memory and how busy the machine was before."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    memory, (load, _, _) = gib_of("/proc/meminfo", "MemTotal"), os.getloadavg()
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, load average {load:.1f} at the start"


def accuracy_cells(quality: dict[str, Any], other_nodes: int) -> list[str]:
    """Return the cells from top-1 to the scales."""
    drop, low, high = quality["drop"]
    scales = ", ".join(f"{count} {kind}" for kind, count in quality["scales"].items())
    return [
        f"{quality['top1']:.2f}",
        f"{0 - drop:+.2f} ({0 - high:+.2f} to {0 - low:+.2f})",
        f"{quality['p_value']:.3f}",
        f"{quality['agreement']:.1f}",
        f"{quality['rmse']:.3f}",
        f"{quality['integer_nodes']} of {quality['conv_and_matmul']}",
        scales,
        f"{quality['other_nodes'] - other_nodes:+d}",
    ]


def cost_cells(cost: Cost) -> list[str]:
    """Return the cells of time and memory."""
    return [f"{cost.seconds:.1f}", f"{cost.cpu_seconds:.1f}", f"{cost.peak_mb:.0f}"]


def table(rows: Sequence[Row], float_quality: dict[str, Any]) -> str:
    """Return the comparison as a Markdown table."""
    heads = ["method", "top-1 %", "change, points (95 %)", "p", "as float %", "logits rmse", "integer nodes", "scales"]
    lines = [[*heads, "other nodes", "s", "CPU s", "peak MB"], ["---"] * 12]
    lines.append(["float", f"{float_quality['top1']:.2f}", *[""] * 10])
    for row in rows:
        title = METHODS[row.method].title
        if row.cost is None:
            lines.append([title, "not run: no --peers-python with NNCF", *[""] * 10])
        elif row.quality is None:
            lines.append([title, row.cost.failure or "", *[""] * 7, *cost_cells(row.cost)])
        else:
            lines.append([title, *accuracy_cells(row.quality, float_quality["other_nodes"]), *cost_cells(row.cost)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def flat_table(rows: Sequence[Row]) -> str:
    """Return peak memory and time by number of calibration images as a Markdown table."""
    lines = ["| method | images | s | CPU s | peak MB |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        assert row.cost is not None
        failed = f" {row.cost.failure}" if row.cost.failure else ""
        lines.append(f"| {METHODS[row.method].title} | {row.images} | {' | '.join(cost_cells(row.cost))}{failed} |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--images", type=int, default=64, help="calibration images (default: 64)")
    parser.add_argument("--evaluate", type=int, default=10**9, metavar="N", help="measure on the first N images only")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="FIELD=VALUE")
    parser.add_argument("--methods", metavar="A,B", help=f"of {', '.join(METHODS)} (default: all)")
    parser.add_argument("--flatness", metavar="8,64,512", help="only time and memory, at these numbers of images")
    parser.add_argument("--peers-python", default="/tmp/peers-venv/bin/python", metavar="PYTHON", help="that has NNCF")
    parser.add_argument("--memory-gib", type=float, default=20.0, help="stop a method beyond this (default: 20)")
    parser.add_argument("--minutes", type=float, default=30.0, help="stop a method beyond this (default: 30)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here as well")
    args = parser.parse_args()
    unknown = [name for name in (args.methods or "").split(",") if name and name not in METHODS]
    if unknown:
        parser.error(f"no method is named {', '.join(unknown)}")
    return args


def main() -> None:
    """Compare, or look at memory, and print."""
    args = arguments()
    found = {"bpudeploy": versions(sys.executable), "peers": versions(args.peers_python)}
    pythons = {"bpudeploy": sys.executable, "onnxruntime": sys.executable, "nncf": args.peers_python}
    about = {"command": shlex.join(["python", "-m", "benchmarks.int8_peers", *sys.argv[1:]]), "machine": machine()}
    print(f"{about['command']}\n{about['machine']}")
    print("\n".join(f"{name}: {', '.join(f'{k} {v}' for k, v in of.items())}" for name, of in found.items() if of))
    chosen = args.methods.split(",") if args.methods else list(FLATNESS if args.flatness else METHODS)
    missing = [n for n in chosen if METHODS[n].package == "nncf" and "nncf" not in found["peers"]]
    if missing:
        print(f"NNCF is not run: {args.peers_python} does not import it; this file's first lines make that environment")
    able, limits = [name for name in chosen if name not in missing], Limits(args.memory_gib, args.minutes)
    counts = [int(text) for text in args.flatness.split(",")] if args.flatness else [args.images]
    rows, loaded, truth = [], {}, {}
    for count in counts:
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            prepare(args.recipe.resolve(), folder, [*args.sets, f"calibration.count={count}"])
            for package, name in {METHODS[name].package: name for name in able}.items():
                loaded[package] = measure(pythons[package], ("idle", name, text), folder, limits)
            if not args.flatness:
                truth = assess("float", folder, args.evaluate)
            rows += compare(able, pythons, folder, limits, None if args.flatness else args.evaluate)
    rows += [Row(name, args.images, None, None) for name in missing]
    rows.sort(key=lambda row: chosen.index(row.method))
    for package, cost in loaded.items():
        print(f"loaded, {package}: {cost.loading_seconds:.1f} s to import, {cost.peak_mb:.0f} MB with the float model")
    if truth:
        print(f"{truth['evaluated']} evaluation images\n")
    print(flat_table(rows) if args.flatness else table(rows, truth))
    if args.json:
        costs = {package: asdict(cost) for package, cost in loaded.items()}
        result = {**about, "versions": found, "loaded": costs, "float": truth, "rows": [asdict(row) for row in rows]}
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
