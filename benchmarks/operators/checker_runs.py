"""Give networks to the checker, and read its answers again."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from bpudeploy.backends.horizon.toolchain.installed import Toolchain

FOLDER = Path(".bpudeploy/operators")
PROBE = Path(__file__).with_name("probe.py")
WORKERS = 2


def save(made: dict[str, onnx.ModelProto], folder: Path) -> list[Path]:
    """Write the networks into a folder a worker; a file is named by its content."""
    folders = [folder / str(i) for i in range(WORKERS)]
    for place in folders:
        place.mkdir(parents=True, exist_ok=True)
        for old in place.glob("*.onnx"):
            old.unlink()
    for model in made.values():
        data = model.SerializeToString()
        digest = hashlib.sha256(data).hexdigest()[:24]
        (folders[int(digest, 16) % WORKERS] / f"{digest}.onnx").write_bytes(data)
    return folders


def ask(tool: Toolchain, folders: Iterable[Path], marches: Iterable[str]) -> None:
    """Run a probe on each folder, side by side."""
    argv = [str(tool.bin / "python"), str(PROBE)]
    running = [
        subprocess.Popen([*argv, str(f), *marches], env=tool.environment(), stdout=subprocess.DEVNULL) for f in folders
    ]
    ended = [process.wait() for process in running]
    if any(ended):
        sys.exit("a probe failed: see above")


def answers(folder: Path) -> Iterator[tuple[onnx.ModelProto, dict[str, object]]]:
    """Yield each network that is still there, with an answer about it."""
    for place in sorted(folder.iterdir()):
        file = place / "answers.jsonl"
        for line in file.read_text().splitlines() if file.exists() else ():
            answer = json.loads(line)
            path = place / f"{answer['net']}.onnx"
            if path.exists():
                yield onnx.load(path), answer


def device(name: str, rows: Iterable[tuple[str, str]]) -> str:
    """Return where a node is by the table: bpu, cpu, or fused into a neighbour."""
    found = {on for row, on in rows if row == name or row.startswith(f"{name}_")}
    return "fused" if not found else "cpu" if "CPU" in found else "bpu"
