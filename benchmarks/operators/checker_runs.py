"""Run networks through the checker, and read its answers."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from bpudeploy.backends.horizon.findings import PlacementRow, Unit
from bpudeploy.backends.horizon.toolchain.installed import Toolchain
from bpudeploy.spec.target import March

FOLDER = Path(".bpudeploy/operators")
PROBE = Path(__file__).with_name("probe.py")
WORKERS = 2


@dataclass(frozen=True)
class Answer:
    """The checker's node table for a march; ``refusal`` is its reason if it exited with an error."""

    march: March
    refusal: str | None
    rows: tuple[PlacementRow, ...]


def save(models: Iterable[onnx.ModelProto], folder: Path) -> list[Path]:
    """Write the networks into one folder per worker; files are named by content."""
    folders = [folder / str(i) for i in range(WORKERS)]
    for part in folders:
        part.mkdir(parents=True, exist_ok=True)
        for old in part.glob("*.onnx"):
            old.unlink()
    for model in models:
        data = model.SerializeToString()
        digest = hashlib.sha256(data).hexdigest()[:24]
        (folders[int(digest, 16) % WORKERS] / f"{digest}.onnx").write_bytes(data)
    return folders


def run_checker(tool: Toolchain, folders: Iterable[Path], marches: Iterable[str]) -> None:
    """Run a probe on each folder in parallel."""
    argv = [str(tool.bin / "python"), str(PROBE)]
    running = [
        subprocess.Popen([*argv, str(f), *marches], env=tool.environment(), stdout=subprocess.DEVNULL) for f in folders
    ]
    statuses = [process.wait() for process in running]
    if any(statuses):
        sys.exit("a probe failed: see above")


def answers(folder: Path) -> Iterator[tuple[onnx.ModelProto, Answer]]:
    """Yield each saved network with its answers."""
    for part in sorted(folder.iterdir()):
        file = part / "answers.jsonl"
        for line in file.read_text().splitlines() if file.exists() else ():
            found = json.loads(line)
            path = part / f"{found['net']}.onnx"
            if path.exists():
                rows = tuple(PlacementRow(name=name, op="", on=(Unit(on),)) for name, on in found["rows"])
                refusal = None if found["status"] == 0 else found["said"]
                yield onnx.load(path), Answer(March(found["march"]), refusal, rows)
