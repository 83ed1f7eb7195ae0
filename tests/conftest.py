"""A whole project in miniature: random weights and noise images. It proves mechanics, never accuracy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from bpudeploy.backends.horizon.toolchain.installed import Toolchain, installed
from tests.fakes.fixtures import vendor_tools as vendor_tools

os.environ.setdefault("OMP_NUM_THREADS", "2")

# The laws are tried on the same examples each time, so that `make test` says of a change what it says of it everywhere;
# BPUDEPLOY_RANDOM=1 tries others.
settings.register_profile("repeatable", derandomize=True)
if not os.environ.get("BPUDEPLOY_RANDOM"):
    settings.load_profile("repeatable")

RECIPE = """\
name: tiny
model:
  source: backbone.safetensors
  architecture: test_vit
  image_size: 64
  head: {source: head.safetensors}
dataset:
  source: images
  evaluation: {count: 6, seed: 0}
calibration: {count: 4, seed: 1}
target: local
benchmark: {warmup: 1, rounds: 6, min_frames: 12, min_seconds: 0, max_seconds: 2, precision: 100, streams: [2]}
"""


NO_TOOLCHAIN = "the vendor's compiler is not installed: make toolchain"


@pytest.fixture(autouse=True)
def only_what_is_asked_for(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the vendor's compiler from each test that does not ask for it: none may differ where it is installed."""
    if "toolchain" not in request.fixturenames:
        monkeypatch.setenv("BPUDEPLOY_TOOLCHAIN", str(Path(__file__).with_name("no-toolchain")))


@pytest.fixture
def toolchain() -> Toolchain:
    """Return the vendor's compiler for X3, Ultra and X5; a test that asks for it skips where it is not installed."""
    found = installed()
    if found is None:
        pytest.skip(NO_TOOLCHAIN)
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line how many compile tests were skipped."""
    skipped = [r for r in terminalreporter.stats.get("skipped", ()) if NO_TOOLCHAIN in str(r.longrepr)]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} compile tests skipped: {NO_TOOLCHAIN}")


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a recipe, a backbone, a head and twelve images in two classes."""
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from bpudeploy.stages.timm_models import timm

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    backbone = timm().create_model("test_vit", pretrained=False, num_classes=0)
    save_file(backbone.state_dict(), folder / "backbone.safetensors")
    width = backbone.num_features
    save_file({"weight": torch.randn(2, width) * 0.1, "bias": torch.zeros(2)}, folder / "head.safetensors")
    noise = np.random.default_rng(0)
    for kind in ("bad", "good"):
        (folder / "images" / kind).mkdir(parents=True)
        for i in range(6):
            pixels = noise.integers(0, 256, (70, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / kind / f"{i}.png")
    (folder / "tiny.yaml").write_text(RECIPE)
    return folder


@pytest.fixture
def tiny(tiny_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the tiny recipe; the working directory and the store are this test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BPUDEPLOY_STORE", str(tmp_path / "store"))
    return tiny_files / "tiny.yaml"
