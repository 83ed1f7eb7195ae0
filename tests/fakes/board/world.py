"""The board that a copy of this package stands on: what chip it is, and what goes wrong. From board.json beside it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class World:
    """``fail`` names a fault, see Board.set() in fixtures.py; ``latency_ms`` is made up."""

    board: str
    march: str
    latency_ms: float
    fail: str | None


def world() -> World:
    """Return what board.json says."""
    return World(**json.loads((HERE / "board.json").read_text()))


def print_head(lines: list[str]) -> None:
    """Print as the vendor's libraries do: on file descriptor 1, past Python's own sys.stdout."""
    os.write(1, "".join(f"{line}\n" for line in lines).encode())


def head(march: str) -> list[str]:
    """Return what the runtime library says when it is loaded."""
    if march.startswith("nash"):
        return [
            "[BPU][[BPU_MONITOR]][281473344962784][INFO]BPULib verison(2, 1, 2)[0d3f195]!",
            "[DNN] HBTL_EXT_DNN log level:6",
            "[DNN]: 3.3.3_(4.1.17 HBRT)",
        ]
    chip = " soc info(x5)" if march == "bayes-e" else ""
    return [
        f"[BPU_PLAT]BPU Platform Version(1.3.6)!{chip}",
        "[HBRT] set log level as 0. version = 3.15.55.0",
        "[DNN] Runtime version = 1.24.5_(3.15.55 HBRT)",
        "[A][DNN][packed_model.cpp:247][Model](2025-07-24,21:59:05.528.780) "
        "[HorizonRT] The model builder version = 1.24.3",
    ]


def other_chip(march: str) -> list[str]:
    """Return what the libraries print when an artifact is for another chip: B at inference, H when it is loaded."""
    if march.startswith("nash"):
        return [f"[E][DNN] model march does not match the platform march: {march}", "load model failed"]
    return [
        f"[BPU_PLAT]Make sure inst Suport ({'X5' if march == 'bayes-e' else 'X3'}) Platform!!",
        "[BPU_PLAT]Incompatible Platform!!",
        "hbDNNWaitTaskDone failed",
    ]
