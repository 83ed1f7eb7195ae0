"""A user's class in a recipe: static checks, trust, and commands that must not run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpudeploy.cli.main import main
from bpudeploy.errors import SpecError
from bpudeploy.spec.module import ModuleRef
from tests.spec.conftest import check_error, error, load

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
def here(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (here / "net.py").write_text(NET)
    monkeypatch.setenv("BPUDEPLOY_STORE", str(here / "store"))
    return here


def swap(old: str, new: str) -> str:
    assert old in RECIPE
    return RECIPE.replace(old, new)


def test_a_module_has_a_file_a_name_and_arguments(here: Path) -> None:
    model = load(RECIPE).recipe.model
    assert (model.module, model.arguments) == ("net.py:Net", {"channels": 8, "sides": [3, 3]})
    assert load(swap("net.py:Net", "net.py:make")).recipe.model.module == "net.py:make"


WRONG = [
    (swap("  trust: true\n", ""), "r.yaml:4:11", "model.module", "runs net.py on this machine", "trust: true"),
    (swap("net.py:Net", "net.py"), "r.yaml:4:11", "model.module", "expected FILE.py:CLASS", ""),
    (swap("net.py:Net", "net.txt:Net"), "r.yaml:4:11", "model.module", "expected FILE.py:CLASS", ""),
    (swap("net.py:Net", "net.py:Nett"), "r.yaml:4:11", "model.module", "net.py has no Nett", "did you mean Net?"),
    (swap("net.py:Net", "nett.py:Net"), "r.yaml:4:11", "model.module", "cannot read nett.py", "relative"),
    (swap("  image_size: 32\n", ""), "r.yaml:3:3", "model", "image_size is required", "image_size"),
    (
        swap("w.safetensors", "timm:vit"),
        "r.yaml:3:11",
        "model.source",
        "not contain the weights of a class",
        "save them",
    ),
    (swap("w.safetensors", "net.py"), "r.yaml:3:11", "model.source", "cannot tell the format", ".safetensors"),
    (swap("  trust", "  architecture: vit\n  trust"), "r.yaml:6:17", "model.architecture", "combined with module", ""),
    (
        swap("  trust", "  head: {source: net.py}\n  trust"),
        "r.yaml:6:9",
        "model.head",
        "combined with module",
        "remove",
    ),
    (swap("  trust: true", "  trust: yes"), "r.yaml:6:10", "model.trust", "expected true or false", ""),
    (
        swap("std: [1, 1, 1], ", ""),
        "r.yaml:9:13",
        "preprocess",
        "a class does not define its preprocessing",
        "mean and std",
    ),
    (swap("  module: net.py:Net\n", "  architecture: v\n"), "r.yaml:5:14", "model.arguments", "requires module", ""),
    (swap("channels: 8", "channels: .nan"), "r.yaml:5:25", "model.arguments.channels", "finite", ""),
]


@pytest.mark.parametrize(("text", "where", "field", "message", "hint"), WRONG, ids=[w[3] for w in WRONG])
def test_an_error_in_a_module_has_location_message_and_hint(
    here: Path, text: str, where: str, field: str, message: str, hint: str
) -> None:
    check_error(text, where, field, message, hint)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import layers\nclass Net: ...", "net.py:1 imports the local file layers"),
        ("class Net: ...\ndef f():\n    from layers import x", "net.py:3 imports the local file layers"),
        ("from . import x\nclass Net: ...", "net.py:1 imports the local file ."),
        ("class Net(:", "net.py:1 is not valid Python"),
        ("class Net: ...\n\0", "is not valid Python"),
        ("if True:\n    class Net: ...", "net.py has no Net"),
    ],
)
def test_a_file_that_is_not_the_complete_source_is_refused(here: Path, code: str, message: str) -> None:
    (here / "net.py").write_text(code)
    (here / "layers.py").write_text("")
    found = error(RECIPE)
    assert message in found.message and not found.others


@pytest.mark.parametrize("code", ["import torch, json\nclass Net: ...", "from timm.layers import Mlp as Net"])
def test_packages_may_be_imported(here: Path, code: str) -> None:
    (here / "net.py").write_text(code)
    load(RECIPE)


# --- trust


def test_trust_may_be_set_on_the_command_line(here: Path) -> None:
    assert load(swap("  trust: true\n", ""), "model.trust=true").recipe.model.trust
    with pytest.raises(SpecError, match="does not trust"):
        load(RECIPE, "model.trust=false")


def test_trust_is_not_inherited_from_an_extended_recipe(here: Path) -> None:
    (here / "base").mkdir()
    (here / "base" / "b.yaml").write_text(RECIPE.replace("net.py", "../net.py"))
    (here / "base" / "w.safetensors").write_bytes(b"")
    (here / "base" / "photos").mkdir()
    with pytest.raises(SpecError, match="not inherited") as caught:
        load("extends: base/b.yaml\n")
    assert str(caught.value.where) == "base/b.yaml:6:10" and "read net.py:Net" in (caught.value.hint or "")
    with pytest.raises(SpecError, match="not inherited"):
        load("extends: base/b.yaml\nmodel: {module: net.py:make}\n")
    assert load("extends: base/b.yaml\nmodel: {trust: true}\n").recipe.model.module == "net.py:Net"
    assert load("extends: base/b.yaml\n", "model.trust=true").recipe.model.trust


def test_trust_in_a_matrix_counts_only_in_the_named_file(here: Path) -> None:
    text = swap("  trust: true\n", "")
    (here / "b.yaml").write_text(text + "matrix: {model.trust: [true]}\n")
    with pytest.raises(SpecError, match="not inherited"):
        load("extends: b.yaml\n")
    assert load(text + "matrix: {model.trust: [true]}\n").recipe.model.trust


# --- commands that do not run the module


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
def test_commands_that_only_read_a_recipe_do_not_run_its_module(here: Path, argv: list[str]) -> None:
    Path("r.yaml").write_text(RECIPE)
    assert main(argv) == 0
    assert not (here / "ran").exists()


def test_what_a_run_requires_is_an_error_of_run_only(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = swap("  source: w.safetensors\n", "").replace("dataset: {source: photos}", "dataset: {classes: [a, b]}")
    Path("r.yaml").write_text(text)
    for verb in ("validate", "plan"):
        assert main([verb, "r.yaml"]) == 0
        out = capsys.readouterr().out
        assert "missing: r.yaml:3:3: there are no trained weights for net.py:Net" in out
        assert "missing: r.yaml:7:10: the recipe names no images" in out and "--set dataset.source=FOLDER" in out
    for argv in (["run", "r.yaml"], ["run", "r.yaml", "--dry-run"], ["fit-head", "r.yaml"], ["explain", "r.yaml", "x"]):
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert "there are no trained weights" in error and "names no images" in error
    assert not (here / "ran").exists() and not (here / "store").exists()


@pytest.mark.parametrize("text", ["net.py:Net", "a/b.py:make", "C:\\x.py:Net"])
def test_a_reference_is_a_file_and_a_name(text: str) -> None:
    found = ModuleRef.parse(text)
    assert f"{found.path}:{found.name}" == text
