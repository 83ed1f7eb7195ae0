"""The daemon's side of one container: a process of its own, which a killed client does not take along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.fakes.world import container


def main(argv: list[str]) -> int:
    """Be the daemon of one container: start the tool, wait, write down how it ended."""
    path = Path(argv[0])
    spec = json.loads(path.read_text())
    state = Path(os.environ["FAKE_DOCKER_STATE"])
    folder, marker = path.parent, state / f"{spec['name']}.json"
    tool = [sys.executable, "-P", "-m", f"tests.fakes.{spec['command'][0]}", *spec["command"][1:]]
    knobs = {k: v for k, v in os.environ.items() if k.startswith("FAKE_") or k in ("PYTHONPATH", "OMP_NUM_THREADS")}
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/root",
        **knobs,
        **spec["environment"],
        "FAKE_DOCKER_SPEC": str(path),
    }
    cwd = container(spec).to_host(Path(spec["cwd"]))
    cwd.mkdir(parents=True, exist_ok=True)
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            tool, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
        spec["pid"], spec["started"] = process.pid, time.time()
        path.write_text(json.dumps(spec))
        marker.write_text(json.dumps(spec))
        status = _wait(process, folder)
    if not spec["rm"]:
        (state / "containers" / f"{spec['name']}.exited").write_text(json.dumps({**spec, "exit": status}))
    with (state / "history.jsonl").open("a") as history:
        history.write(json.dumps({**spec, "exit": status}) + "\n")
    marker.unlink(missing_ok=True)
    (folder / "exit.part").write_text(str(status))
    (folder / "exit.part").rename(folder / "exit")
    return 0


def _wait(process: subprocess.Popen[bytes], folder: Path) -> int:
    """Wait; FAKE_DOCKER_OOM kills the tool once it calibrates, as the kernel does above --memory."""
    while process.poll() is None:
        if "FAKE_DOCKER_OOM" in os.environ and b"Start to calibrate" in (folder / "out").read_bytes():
            process.kill()
        time.sleep(0.02)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
