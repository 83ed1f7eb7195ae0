"""A user's own class in a recipe: what is refused by reading alone, who may trust it, and that looking runs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpudeploy.cli.main import main
from bpudeploy.errors import SpecError
from bpudeploy.spec.load import LoadedRecipe, load_recipe
from bpudeploy.spec.module import ModuleRef

RECIPE = """\
name: own
model:
  source: w.safetensors
  module: net.py:Net
  arguments: {channels: 8, sides: [3, 3]}
  trust: true
  image_size: 32
dataset: {source: photos}
preprocess: {mean: [0, 0, 0], std: [1, 1, 1], interpolation: bilinear, crop_pct: 1.0}
target: local
"""
NET = """\
from pathlib import Path
from torch import nn
Path("ran").touch()
class Net(nn.Module):
    pass
def make(): ...
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    (tmp_path / "photos").mkdir()
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BPUDEPLOY_STORE", str(tmp_path / "store"))
    return tmp_path


def load(text: str, *sets: str) -> LoadedRecipe:
    Path("r.yaml").write_text(text)
    (resolved,) = load_recipe(Path("r.yaml"), sets)
    return resolved


def swap(old: str, new: str) -> str:
    assert old in RECIPE
    return RECIPE.replace(old, new)


def test_a_module_has_a_file_a_name_and_arguments(here: Path) -> None:
    model = load(RECIPE).recipe.model
    assert (model.module, model.arguments) == ("net.py:Net", {"channels": 8, "sides": [3, 3]})
    assert load(swap("net.py:Net", "net.py:make")).recipe.model.module == "net.py:make"


WRONG = [
    (swap("  trust: true\n", ""), "r.yaml:4:11", "model.module", "net.py is run on this machine", "trust: true"),
    (swap("net.py:Net", "net.py"), "r.yaml:4:11", "model.module", "expected FILE.py:CLASS", ""),
    (swap("net.py:Net", "net.txt:Net"), "r.yaml:4:11", "model.module", "expected FILE.py:CLASS", ""),
    (swap("net.py:Net", "net.py:Nett"), "r.yaml:4:11", "model.module", "net.py has no Nett", "did you mean Net?"),
    (swap("net.py:Net", "nett.py:Net"), "r.yaml:4:11", "model.module", "cannot read nett.py", "relative"),
    (swap("  image_size: 32\n", ""), "r.yaml:3:3", "model", "does not say which images", "image_size"),
    (swap("w.safetensors", "timm:vit"), "r.yaml:3:11", "model.source", "not hold the weights of a class", "save them"),
    (swap("w.safetensors", "net.py"), "r.yaml:3:11", "model.source", "cannot tell the format", ".safetensors"),
    (swap("  trust", "  architecture: vit\n  trust"), "r.yaml:6:17", "model.architecture", "not read with module", ""),
    (
        swap("  trust", "  head: {source: net.py}\n  trust"),
        "r.yaml:6:9",
        "model.head",
        "not read with module",
        "remove",
    ),
    (swap("  trust: true", "  trust: yes"), "r.yaml:6:10", "model.trust", "expected true or false", ""),
    (swap("std: [1, 1, 1], ", ""), "r.yaml:9:13", "preprocess", "a class does not say how its images", "mean and std"),
    (swap("  module: net.py:Net\n", "  architecture: v\n"), "r.yaml:5:14", "model.arguments", "with module only", ""),
    (swap("channels: 8", "channels: .nan"), "r.yaml:5:25", "model.arguments.channels", "finite", ""),
]


@pytest.mark.parametrize(("text", "place", "field", "message", "hint"), WRONG, ids=[w[3] for w in WRONG])
def test_a_wrong_module_says_where_what_and_how(
    here: Path, text: str, place: str, field: str, message: str, hint: str
) -> None:
    with pytest.raises(SpecError) as caught:
        load(text)
    found = caught.value
    assert (str(found.where), found.field) == (place, field), found.message
    assert message in found.message
    assert hint in (found.hint or ""), found.hint


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import layers\nclass Net: ...", "net.py:1 imports layers, a file beside it"),
        ("class Net: ...\ndef f():\n    from layers import x", "net.py:3 imports layers, a file beside it"),
        ("from . import x\nclass Net: ...", "net.py:1 imports ., a file beside it"),
        ("class Net(:", "net.py:1 is not Python"),
        ("class Net: ...\n\0", "is not Python"),
        ("if True:\n    class Net: ...", "net.py has no Net"),
    ],
)
def test_a_file_that_cannot_be_the_whole_source_is_refused_unread(here: Path, code: str, message: str) -> None:
    (here / "net.py").write_text(code)
    (here / "layers.py").write_text("")
    with pytest.raises(SpecError) as caught:
        load(RECIPE)
    assert message in caught.value.message and not caught.value.others


@pytest.mark.parametrize("code", ["import torch, json\nclass Net: ...", "from timm.layers import Mlp as Net"])
def test_packages_may_be_imported(here: Path, code: str) -> None:
    (here / "net.py").write_text(code)
    load(RECIPE)


# --- trust


def test_trust_may_be_set_on_the_command_line(here: Path) -> None:
    assert load(swap("  trust: true\n", ""), "model.trust=true").recipe.model.trust
    with pytest.raises(SpecError, match="does not trust"):
        load(RECIPE, "model.trust=false")


def test_trust_is_not_taken_over_from_an_extended_recipe(here: Path) -> None:
    (here / "base").mkdir()
    (here / "base" / "b.yaml").write_text(RECIPE.replace("net.py", "../net.py"))
    (here / "base" / "w.safetensors").write_bytes(b"")
    (here / "base" / "photos").mkdir()
    with pytest.raises(SpecError, match="not taken over") as caught:
        load("extends: base/b.yaml\n")
    assert str(caught.value.where) == "base/b.yaml:6:10" and "read net.py:Net" in (caught.value.hint or "")
    with pytest.raises(SpecError, match="not taken over"):
        load("extends: base/b.yaml\nmodel: {module: net.py:make}\n")
    assert load("extends: base/b.yaml\nmodel: {trust: true}\n").recipe.model.module == "net.py:Net"
    assert load("extends: base/b.yaml\n", "model.trust=true").recipe.model.trust


def test_trust_of_a_matrix_counts_where_it_is_written(here: Path) -> None:
    text = swap("  trust: true\n", "")
    (here / "b.yaml").write_text(text + "matrix: {model.trust: [true]}\n")
    with pytest.raises(SpecError, match="not taken over"):
        load("extends: b.yaml\n")
    assert load(text + "matrix: {model.trust: [true]}\n").recipe.model.trust


# --- looking runs nothing


@pytest.mark.parametrize(
    "argv",
    [
        ["validate", "r.yaml"],
        ["plan", "r.yaml"],
        ["run", "r.yaml", "--dry-run"],
        ["explain", "r.yaml", "fetch/model"],
        ["schema"],
    ],
    ids=lambda a: " ".join(a),
)
def test_looking_at_a_recipe_does_not_run_its_module(here: Path, argv: list[str]) -> None:
    Path("r.yaml").write_text(RECIPE)
    assert main(argv) == 0
    assert not (here / "ran").exists()


def test_what_a_run_lacks_is_no_error_of_a_look_and_one_of_a_run(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = swap("  source: w.safetensors\n", "").replace("dataset: {source: photos}", "dataset: {classes: [a, b]}")
    Path("r.yaml").write_text(text)
    for verb in ("validate", "plan"):
        assert main([verb, "r.yaml"]) == 0
        out = capsys.readouterr().out
        assert "a run lacks: r.yaml:3:3: there are no trained weights for net.py:Net" in out
        assert "a run lacks: r.yaml:7:10: the recipe names no images" in out and "--set dataset.source=FOLDER" in out
    for argv in (
        ["run", "r.yaml"],
        ["run", "r.yaml", "--dry-run"],
        ["fit-head", "r.yaml"],
        ["explain", "r.yaml", "x"],
    ):
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert "there are no trained weights" in error and "names no images" in error
    assert not (here / "ran").exists() and not (here / "store").exists()


@pytest.mark.parametrize("text", ["net.py:Net", "a/b.py:make", "C:\\x.py:Net"])
def test_a_reference_is_a_file_and_a_name(text: str) -> None:
    found = ModuleRef.parse(text)
    assert f"{found.path}:{found.name}" == text
