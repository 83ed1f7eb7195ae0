"""Run the checker on many networks in one process of the toolchain's Python (3.10): python probe.py DIR MARCH...

Like `hb_mapper checker`, this calls ``build_onnx(check_mode=True)``, in a fork for each network, because importing the
tool takes 2 s and checking 0.3 s. The placement is decided before the BPU's compiler starts, so that is skipped unless
`--compile` is given. Each answer is a line of DIR/answers.jsonl; existing answers are kept.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LIMIT_S = 300
ROW = re.compile(r"\s{2,}")


def table(log: str) -> list[list[str]]:
    """Return the rows of the last node table: name, device."""
    rows: list[list[str]] = []
    header: list[str] | None = None
    for line in log.splitlines():
        cells = ROW.split(line.strip())
        if cells[:2] == ["Node", "ON"]:
            rows, header = [], cells
        elif header and set(line.strip()) <= set("-="):
            continue
        elif header and len(cells) == len(header) and cells[1] in ("BPU", "CPU"):
            rows.append(cells[:2])
        else:
            header = None
    return rows


def check(file: Path, march: str, build_onnx: Any) -> tuple[int, str]:
    """Return the child's exit status (negative: its signal) and what it printed."""
    folder = Path(f"/tmp/bpudeploy-probe-{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / ".hb_check").mkdir(parents=True)
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        out = os.open("log", os.O_CREAT | os.O_WRONLY)
        os.dup2(out, 1)
        os.dup2(out, 2)
        try:
            build_onnx(onnx_file=str(file), march=march, name_prefix="./.hb_check/", save_model=True, check_mode=True)
        except BaseException as error:
            print("refused:", error)
            sys.stdout.flush()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    deadline = time.monotonic() + LIMIT_S
    ended, status = 0, 0
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, 9)
        status = os.waitpid(child, 0)[1]
    log = (folder / "log").read_text(errors="replace")
    shutil.rmtree(folder, ignore_errors=True)
    return os.waitstatus_to_exitcode(status), log


def cache_config(folder: Path) -> None:
    """Shadow hbdk-config with a shell script: the tool calls it often, and each call starts an interpreter."""
    shim = folder / "bin" / "hbdk-config"
    shim.parent.mkdir(exist_ok=True)
    output = subprocess.run(["hbdk-config", "--x86-sim-link-dir"], capture_output=True, text=True, check=True).stdout
    real = shutil.which("hbdk-config")
    shim.write_text(f'#!/bin/sh\n[ "$*" = --x86-sim-link-dir ] && echo \'{output.strip()}\' || exec {real} "$@"\n')
    shim.chmod(0o755)
    os.environ["PATH"] = f"{shim.parent}{os.pathsep}{os.environ['PATH']}"


def skip_compiler(build: Any) -> None:
    """Replace the BPU's compiler with one that writes a placeholder."""

    def placeholder(*arguments: Any, **options: Any) -> None:
        Path(arguments[1]).write_bytes(b"-")

    build.hbdk_cc = build.hbdk_pack = placeholder
    build.hbdk_perf = lambda *arguments, **options: None


def main() -> None:
    """Check every network of the folder that has no answer yet."""
    import logging

    from horizon_nn.builder import build_onnx
    from horizon_nn.compiler import hybrid_build

    compiled = "--compile" in sys.argv
    path, *marches = [a for a in sys.argv[1:] if a != "--compile"]
    folder = Path(path).resolve()
    cache_config(folder)
    if not compiled:
        skip_compiler(hybrid_build)
    logging.basicConfig(level=logging.INFO, force=True, stream=sys.stdout)
    answers = folder / "answers.jsonl"
    known = set()
    if answers.exists():
        known = {tuple(json.loads(line)[key] for key in ("net", "march")) for line in answers.open()}
    files = sorted(folder.glob("*.onnx"))
    for i, file in enumerate(files):
        for march in marches:
            if (file.stem, march) in known:
                continue
            status, log = check(file, march, build_onnx)
            refusal = next((x for x in reversed(log.splitlines()) if x.startswith("refused:")), "")[:300]
            answer = {"net": file.stem, "march": march, "status": status, "rows": table(log), "said": refusal}
            with answers.open("a") as out:
                out.write(json.dumps(answer) + "\n")
        if i % 20 == 0:
            print(f"{i}/{len(files)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
