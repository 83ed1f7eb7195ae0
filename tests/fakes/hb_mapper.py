"""A stand-in for ``hb_mapper`` where the real one cannot be had or made to fail so: hangs, crashes, silence, docker.

It prints what the real one printed for a small network (tests/backends/horizon/logs) and writes bytes where the binary
would be. It reads no model and no YAML: what the tool accepts is asked of the tool (the tests marked ``toolchain``).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.fakes.say import fault, usage
from tests.fakes.world import absolute, guard

VERSION = "1.24.3"
LOGS = Path(__file__).parents[1] / "backends" / "horizon" / "logs"
STAGES = ("calibrate", "quantize", "compile")


def main(argv: list[str]) -> int:
    """Replay one command; return the exit status."""
    if argv[:1] == ["--version"]:
        print(f"hb_mapper, version {VERSION}")
        return 0
    if not argv or argv[0] not in ("checker", "makertbin"):
        usage("hb_mapper", "", f"No such command '{argv[0]}'." if argv else "Missing command.")
    command = argv[0]
    if "--model" in argv and not absolute(model := argv[argv.index("--model") + 1]).is_file():
        print(f"ERROR {model} does not exist.")
        return 255
    recorded = LOGS / f"{command}-bayes-e"
    with absolute(f"hb_mapper_{command}.log").open("w") as log:
        log.write(recorded.with_suffix(".log").read_text())
    for line in recorded.with_suffix(".console").read_text().splitlines():
        print(line, flush=True)
        fault(next((stage for stage in STAGES if f"Start to {stage}" in line), ""))
    if command == "makertbin" and "FAKE_HB_TRUNCATE" not in os.environ:
        out = absolute("out")
        out.mkdir(exist_ok=True)
        (out / "model.bin").write_bytes(b"FAKEHBIN" + os.urandom(8))
    return 0


if __name__ == "__main__":
    guard()
    fault("start")
    raise SystemExit(main(sys.argv[1:]))
