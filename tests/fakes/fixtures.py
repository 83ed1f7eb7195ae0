"""``vendor_tools``: a folder of fake vendor tools in front of PATH."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
IMAGE = "openexplorer/ai_toolchain_ubuntu_20_x5_cpu:v1.2.8"
IMAGE_H = "registry.d-robotics.cc/deliver/ai_toolchain_ubuntu_22_s100_s600_cpu:v3.7.0"
DIGEST = "sha256:" + "5e" * 32
DIGEST_H = "sha256:" + "a1" * 32


@dataclass(frozen=True)
class VendorTools:
    """``bin`` is first on PATH; ``docker_state`` holds one file for every container that runs.

    ``image`` is the one that docker has for X5, with ``digest`` and hb_mapper in it; ``image_h`` that for S100, with
    hb_compile. Each tool starts as a subprocess of its own.
    """

    bin: Path
    docker_state: Path
    image: str
    digest: str
    image_h: str
    digest_h: str

    def history(self) -> list[dict[str, Any]]:
        """Return every container that has ended, with its flags, mounts, command and exit status."""
        log = self.docker_state / "history.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def running(self) -> list[str]:
        """Return the names of the containers that are still running."""
        return sorted(p.stem for p in self.docker_state.glob("*.json"))


def install(folder: Path) -> VendorTools:
    """Write the executables; without pytest, to use them from a shell."""
    tools, state = folder / "bin", folder / "docker"
    tools.mkdir(parents=True)
    state.mkdir()
    for name in ("hb_mapper", "hb_compile", "docker"):
        python = f"PYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} -P"
        script = tools / name
        script.write_text(f'#!/bin/sh\n{python} -m tests.fakes.{name} "$@"\n')
        script.chmod(0o755)
    return VendorTools(tools, state, IMAGE, DIGEST, IMAGE_H, DIGEST_H)


@pytest.fixture
def vendor_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VendorTools]:
    """Put the fakes first on PATH, without faults from outside; end what is still running afterwards."""
    tools = install(tmp_path / "vendor")
    for name in list(os.environ):
        if name.startswith(("FAKE_HB_", "FAKE_DOCKER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{tools.bin}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_DOCKER_STATE", str(tools.docker_state))
    monkeypatch.setenv("FAKE_DOCKER_IMAGE", f"{tools.image}@{tools.digest} {tools.image_h}@{tools.digest_h}")
    yield tools
    for name in tools.running():
        subprocess.run([tools.bin / "docker", "kill", name], check=False, capture_output=True)
