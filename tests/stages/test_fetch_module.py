"""fetch/model of a user's class: runs with trust only, loads weights strictly, equals its export, explains refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from bpudeploy.cli.main import main
from bpudeploy.digest import digest_file
from bpudeploy.errors import StageError
from bpudeploy.spec.source import CheckpointFormat
from bpudeploy.stage import Artifact, Kind, StepContext
from bpudeploy.stages.fetch_module import ModuleOptions, NetworkFactory, fetch_module, load_network
from bpudeploy.stages.originals import meta_of, open_original

NET = """\
import torch
from dataclasses import dataclass
from torch import nn

print("this is said while the file runs")

@dataclass
class Shape:
    channels: int = 8

class Net(nn.Module):
    def __init__(self, channels=8, classes=2, takes=3):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(takes, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(channels, classes)

    def forward(self, x):
        return self.head(self.drop(self.features(x).mean((2, 3))))

class Grey(Net):
    def __init__(self):
        super().__init__(takes=1)
    def forward(self, x):
        return super().forward(x.mean(1, keepdim=True))

class OneChannel(Net):
    def __init__(self):
        super().__init__(takes=1)

class Branch(Net):
    def forward(self, x):
        x = self.features(x)
        if x.mean() > 1e9:
            x = x * 2
        return self.head(x.mean((2, 3)))

class Shapes(Net):
    def forward(self, x):
        if x.shape[-1] > 16 and int(x.shape[0]) == 1:
            x = torch.nn.functional.avg_pool2d(x, 2)
        return super().forward(x)

class Forgets(Net):
    def forward(self, x):
        return torch.nn.functional.dropout(super().forward(x), 0.5)

class Frozen(Net):
    def forward(self, x):
        return super().forward(x) * float(x.numpy().mean())

class Several(Net):
    def forward(self, x):
        return self.features(x), super().forward(x)

class Named(Net):
    def forward(self, x):
        return {"scores": super().forward(x)}

class Breaks(Net):
    def forward(self, x):
        raise RuntimeError("not today")

def make(channels=8):
    return Net(Shape(channels).channels)

def nothing():
    return 3
"""
RAISES = 1 + NET.splitlines().index('        raise RuntimeError("not today")')


@pytest.fixture
def net(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    torch.manual_seed(0)
    for name in ("Net", "Grey"):
        model = load_network(tmp_path / "net.py", NetworkFactory("net.py", name, {}))
        save_file(model.state_dict(), tmp_path / f"{name}.safetensors")
    return tmp_path


def fetch(folder: Path, name: str, weights: str = "Net", **changed: Any) -> Path:
    defaults = {"image_size": (32, 24), "batch": 1, "features": False, "tolerance": 1e-5, "trusted": True}
    options = {**defaults, **changed}
    factory = NetworkFactory("net.py", name, options.pop("arguments", {}))
    code, state = folder / "net.py", folder / f"{weights}.safetensors"
    inputs = Artifact(Kind.CODE, digest_file(code), code), Artifact(Kind.CHECKPOINT, digest_file(state), state)
    (folder / "work").mkdir(exist_ok=True)
    work = StepContext(folder / "work", lambda event: None)
    return fetch_module(work, ModuleOptions(factory, CheckpointFormat.SAFETENSORS, None, **options), inputs)[0]


@pytest.mark.parametrize(("name", "weights"), [("Net", "Net"), ("Grey", "Grey"), ("Shapes", "Net"), ("make", "Net")])
def test_later_stages_do_not_need_the_users_code(net: Path, name: str, weights: str) -> None:
    made = fetch(net, name, weights)
    model = load_network(net / "net.py", NetworkFactory("net.py", name, {}))
    model.load_state_dict(load_file(net / f"{weights}.safetensors"))
    pixels = np.random.default_rng(1).normal(size=(1, 3, 32, 24)).astype(np.float32)
    (net / "net.py").unlink()
    original = open_original(made)
    assert original.runs_on == "onnxruntime"
    assert (original.meta.image_size, original.meta.num_classes) == ((32, 24), 2)
    with torch.no_grad():
        expected = model(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(original.infer(pixels)[0], expected, atol=1e-6)


def test_the_same_file_gives_the_same_bytes_in_any_folder(net: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("net.py", "Net.safetensors"):
        (elsewhere / name).write_bytes((net / name).read_bytes())
    assert digest_file(fetch(net, "Net")) == digest_file(fetch(elsewhere, "Net"))


def test_nothing_runs_without_trust(net: Path) -> None:
    (net / "net.py").write_text(f"open({str(net / 'ran')!r}, 'w')\n{NET}")
    with pytest.raises(StageError, match="not trusted and was not run"):
        fetch(net, "Net", trusted=False)
    assert not (net / "ran").exists()
    fetch(net, "Net")
    assert (net / "ran").exists()


@pytest.mark.parametrize(
    ("name", "changed", "message", "hint"),
    [
        ("Net", {"arguments": {"channels": 4}}, "the weights do not fit Net", "check the arguments"),
        ("Net", {"arguments": {"chanels": 4}}, "cannot build Net: net.py: TypeError", "model.arguments"),
        ("nothing", {}, "returns int, not a torch.nn.Module", "name the class"),
        ("OneChannel", {"weights": "Grey"}, "does not accept 1x3x32x24: net.py:", "x.mean(1, keepdim=True)"),
        ("Branch", {}, "Branch has data-dependent control flow", "one fixed graph"),
        ("Forgets", {}, "Forgets is not deterministic", "self.training"),
        ("Frozen", {}, "the export of Frozen differs from it by", "constants"),
        ("Named", {}, "forward returns dict", ""),
        ("Breaks", {}, f"net.py:{RAISES}: RuntimeError: not today", ""),
        ("Several", {}, "not one row of class scores", "outputs: features"),
    ],
)
def test_an_unsupported_network_is_refused_with_a_hint(
    net: Path, name: str, changed: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(StageError) as caught:
        fetch(net, name, **changed)
    assert message in caught.value.message and hint in (caught.value.hint or "")


def test_several_outputs_are_features(net: Path) -> None:
    made = fetch(net, "Several", features=True)
    assert meta_of(made).features
    assert [o.shape for o in open_original(made).infer(np.zeros((1, 3, 32, 24), np.float32))] == [
        (1, 8, 32, 24),
        (1, 2),
    ]


RECIPE = """\
name: own
model: {source: Net.safetensors, module: net.py:Net, trust: true, image_size: 32}
dataset: {source: images, evaluation: {count: 6}}
calibration: {count: 4}
preprocess: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25], interpolation: bilinear, crop_pct: 1.0}
target: local
"""


@pytest.fixture
def recipe(net: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    noise = np.random.default_rng(0)
    for kind in ("bad", "good"):
        (net / "images" / kind).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(
                net / "images" / kind / f"{i}.png"
            )
    (net / "own.yaml").write_text(RECIPE)
    monkeypatch.chdir(net)
    monkeypatch.setenv("BPUDEPLOY_STORE", str(net / "store"))
    return net / "own.yaml"


def test_only_an_edited_class_or_other_arguments_run_again(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def states(*sets: str) -> dict[str, str]:
        capsys.readouterr()
        assert main(["plan", "own.yaml", "--json", *sets]) == 0
        return {s["step"]: s["state"] for s in json.loads(capsys.readouterr().out)["steps"]}

    assert main(["run", "own.yaml", "--until", "fetch"]) == 0
    assert set(states().values()) & {"hit"} and states()["fetch/model"] == "hit"
    assert states("--set", "model.arguments={channels: 8}")["fetch/model"] == "miss"
    Path("own.yaml").write_text(f"# another comment\n{RECIPE}")
    assert states()["fetch/model"] == "hit"
    Path("net.py").write_text(NET.replace('print("this', 'print("that'))
    found = states()
    assert (found["fetch/module"], found["fetch/model"]) == ("miss", "after")
    assert (found["fetch/weights"], found["fetch/dataset"]) == ("hit", "hit")


def test_output_of_the_file_is_not_in_the_json(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "own.yaml", "--until", "quantize", "--json"]) == 0
    for line in capsys.readouterr().out.splitlines():
        json.loads(line)
    assert main(["estimate", "own.yaml", "--target", "rdk-x5", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["model"] == "Net" and found["provenance"] == "predicted"
