"""The zoo: each recipe is valid and planned for three boards, its estimate is known, and the page says that."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from benchmarks import zoo, zoo_page
from bpudeploy.cli.main import main
from bpudeploy.errors import SpecError
from bpudeploy.planning import pipeline
from bpudeploy.predict.march import march_model
from bpudeploy.predict.prediction import Prediction
from bpudeploy.spec.load import load_recipe
from bpudeploy.spec.schema import recipe_schema

ROOT = Path(__file__).parents[2]
ZOO = sorted(path for path in (ROOT / "recipes" / "zoo").glob("*.yaml") if path.name != "base.yaml")
BOARDS = ["rdk-x3", "rdk-x5", "rdk-s100"]
BUILT = ["inspection-cnn", "resnet18"]
"""Estimated anew here; of the others, what was counted once is priced (python -m benchmarks.zoo count)."""


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("BPUDEPLOY_STORE", str(tmp_path))


@pytest.mark.parametrize("path", ZOO, ids=lambda p: str(p.stem))
def test_each_is_valid_and_planned_for_three_boards(path: Path) -> None:
    jsonschema.validate(yaml.safe_load(path.read_text()), recipe_schema())
    found = load_recipe(path, to_look=True)
    assert [r.target.name for r in found] == BOARDS
    assert {r.recipe.name for r in found} == {f"{path.stem}-target.{board}" for board in BOARDS}
    for resolved in found:
        planned = pipeline.plan(resolved)
        assert {"fetch/model", "restructure", "quantize", "quantize/scores"} <= {step.name for step in planned.steps}


@pytest.mark.parametrize("path", ZOO, ids=lambda p: str(p.stem))
def test_a_run_says_all_that_it_lacks_and_with_it_is_complete(path: Path, tmp_path: Path) -> None:
    lacks = {lack.field for lack in load_recipe(path, to_look=True)[0].lacks}
    if not lacks:
        assert load_recipe(path)
        return
    with pytest.raises(SpecError) as caught:
        load_recipe(path)
    assert {caught.value.field, *(e.field for e in caught.value.others)} == lacks
    weights = tmp_path / "w.safetensors"
    weights.touch()
    given = [f"dataset.source={tmp_path}"]
    given += [f"model.sha256={'a' * 64}"] if "model.source" in lacks else [f"model.source={weights}"]
    assert len(load_recipe(path, given)) == len(BOARDS)


def test_the_page_is_made_of_the_committed_counts_of_every_recipe() -> None:
    counts, families = zoo_page.read_counts(), [n for names in zoo_page.FAMILIES.values() for n in names]
    assert sorted(counts) == sorted(families) == sorted(path.stem for path in ZOO)
    assert zoo_page.PAGE.read_text() == zoo_page.page(counts, zoo_page.read_measured())


def test_each_has_an_estimate_for_three_boards() -> None:
    page = zoo_page.PAGE.read_text()
    for name, counted in zoo_page.read_counts().items():
        assert list(counted["boards"]) == sorted(BOARDS), name
        for target in BOARDS:
            rows = page.split(f"## {zoo_page.BOARDS[target]}\n")[1].split("\n## ")[0].splitlines()
            (row,) = [line for line in rows if line.startswith(f"| {name} |")]
            assert " to " in row.split("|")[2] and float(row.split("|")[2].split()[0]) > 0


@pytest.mark.parametrize("name", BUILT)
def test_the_counts_are_those_of_the_networks_as_they_are_built_today(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("recipes/zoo") / f"{name}.yaml"
    assert main(["estimate", str(path), "--json"]) == 0
    answers = [Prediction.model_validate_json(json.dumps(one)) for one in json.loads(capsys.readouterr().out)]
    counted = zoo_page.read_counts()[name]["boards"]
    for resolved, answer in zip(load_recipe(path, to_look=True), answers, strict=True):
        assert answer.target == resolved.target.name
        forms = {"restructured": answer.restructured[0], "original": answer.original}
        for form, estimate in forms.items():
            kept = counted[resolved.target.name][form]
            total = zoo_page.priced(kept, march_model(resolved.target.march))
            assert total.predicted_ms == pytest.approx(estimate.predicted_ms, rel=1e-5)
            assert total.predicted_high_ms == pytest.approx(estimate.predicted_high_ms, rel=1e-5)
            assert (kept["segments"], kept["cpu_nodes"]) == (estimate.segments, estimate.cpu_nodes)


def test_what_was_not_measured_is_said_to_be_unknown_and_what_was_is_shown_where_it_was() -> None:
    counts = zoo_page.read_counts()
    measured = {
        "recipe": "deit-tiny",
        "target": "rdk-x5",
        "device": "BPU",
        "cpu": None,
        "made": "2026-01-01T00:00:00Z",
        "release": "a" * 64,
        "p50_ms": {"value": 1.5, "low": 1.4, "high": 1.6},
        "top1": {"value": 71.0, "low": 70.0, "high": 72.0},
        "images": 5000,
        "caveats": ["hot"],
    }
    page = zoo_page.page(counts, {"x": measured})
    x5 = page.split("## RDK X5\n")[1].split("\n## ")[0]
    (row,) = [line for line in x5.splitlines() if line.startswith("| deit-tiny |")]
    assert "| 1.5 (1.4 to 1.6), hot | 71 (70 to 72) |" in row
    assert x5.count(zoo_page.UNKNOWN) == page.count(zoo_page.UNKNOWN) == 2 * (len(counts) - 1)
    assert page.count("measured p50 ms") == 1, "a board that measured nothing has no such column"
    assert "1 of the figures below was measured on a board." in page and "No board" not in page
    assert "No board has run any of it." in zoo_page.page(counts, {})


def test_a_zoo_recipe_is_estimated_by_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "recipes/zoo/inspection-cnn.yaml", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["target"] for one in found] == BOARDS and {one["provenance"] for one in found} == {"predicted"}


def test_the_recipes_are_those_that_the_benchmark_counts() -> None:
    assert [path.name for path in zoo.recipes()] == [path.name for path in ZOO]
