"""Recipes: composition from files, errors with location, field and hint, and the schema for editors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bpudeploy import Recipe
from bpudeploy.errors import SpecError
from bpudeploy.spec.load import built_in_targets, list_targets, load_recipe, load_target
from bpudeploy.spec.schema import fleet_schema, recipe_schema, suite_schema, target_schema
from bpudeploy.spec.source import Source
from bpudeploy.spec.yamlmarks import load_yaml, parse_yaml
from tests.spec.conftest import check_error, error, load

ROOT = Path(__file__).parents[2]
GOOD = """\
name: good
model:
  source: w.safetensors
  architecture: vit_tiny_patch16_224
dataset:
  source: photos
calibration:
  count: 8
target: local
"""


def swap(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


PINNED = f"pypi:a==1\n  sha256: {'a' * 64}"
WRONG = [
    (GOOD + "chekc: {}\n", "r.yaml:10:1", "chekc", "unknown key", "did you mean check?"),
    (swap("  count: 8", "  cuont: 8"), "r.yaml:8:3", "calibration.cuont", "unknown key", "did you mean count?"),
    (swap("count: 8", 'count: "8"'), "r.yaml:8:10", "calibration.count", "a whole number", "remove the quotes"),
    (swap("count: 8", "count: 8.5"), "r.yaml:8:10", "calibration.count", "a whole number", "write a whole number"),
    (swap("count: 8", "count: yes"), "r.yaml:8:10", "calibration.count", "found the text 'yes'", "whole number"),
    (swap("count: 8", "count: 0"), "r.yaml:8:10", "calibration.count", "greater than or equal to 1", "correct"),
    (swap("name: good\n", ""), "r.yaml:1:1", "name", "name is missing", "add `name:`"),
    (swap("name: good", "name: a/b"), "r.yaml:1:7", "name", "match pattern", "correct"),
    (GOOD + "quantize: {observer: msr}\n", "r.yaml:10:22", "quantize.observer", "expected", "did you mean mse?"),
    (GOOD + "quantize: {percentile: 99.9}\n", "r.yaml:10:24", "quantize.percentile", "not used", "add `observer:"),
    (GOOD + "quantize: 8\n", "r.yaml:10:11", "quantize", "expected a map", "write a map"),
    (GOOD + "check: {max_drop: .nan}\n", "r.yaml:10:19", "check.max_drop", "finite number", ""),
    (GOOD + "preprocess: {std: [0, 1, 1]}\n", "r.yaml:10:19", "preprocess.std", "above 0", ""),
    (GOOD + "preprocess: {mean: [0, 1]}\n", "r.yaml:10:20", "preprocess.mean[2]", "is missing", "too short"),
    (swap("w.safetensors", "w.pth"), "r.yaml:3:11", "model.source", "there is no w.pth", "relative"),
    (swap("w.safetensors", "photos"), "r.yaml:3:11", "model.source", "cannot tell the format", ".safetensors"),
    (swap("w.safetensors", "ftp://a/b"), "r.yaml:3:11", "model.source", "is not supported", ""),
    (swap("w.safetensors", "https://a/w.pth"), "r.yaml:3:11", "model.source", "not pinned", "bpudeploy pin"),
    (swap("w.safetensors", PINNED), "r.yaml:3:11", "model.source", "a wheel is not a checkpoint", "name a file"),
    (swap("  architecture: vit_tiny_patch16_224\n", ""), "r.yaml:3:3", "model", "architecture is missing", "add timm"),
    (swap("source: photos", "source: timm:vit"), "r.yaml:6:11", "dataset.source", "for models only", ""),
    (swap("source: photos", "source: photos\n  format: csv"), "r.yaml:6:3", "dataset", "label file", "labels:"),
    (swap("source: photos", "source: photos\n  labels: {file: l}"), "r.yaml:7:11", "dataset.labels", "not used", "csv"),
    (swap("source: photos", "source: photos\n  classes: [a, a]"), "r.yaml:7:12", "dataset.classes", "twice", ""),
    (swap("count: 8", f"sha256: {'a' * 64}"), "r.yaml:8:11", "calibration.sha256", "no calibration.source", "remove"),
    (swap("local", "locale"), "r.yaml:9:9", "target", "no target is named", "did you mean local?"),
    (swap("local", "mine.yaml"), "r.yaml:9:9", "target", "there is no file", ""),
    (GOOD + "compile: {acme: {x: 1}}\n", "r.yaml:10:17", "compile.acme", "no backend is named 'acme'", "backends:"),
    (GOOD + "name: twice\n", "r.yaml:10:1", None, "name", ""),
    (GOOD + "matrix: {calibration.cuont: [1]}\n", "r.yaml:10:10", "calibration.cuont", "unknown key", "count"),
    (GOOD + "matrix: {calibration.count: []}\n", "r.yaml:10:29", "matrix.calibration.count", "an empty list", ""),
    (GOOD + "extends: r.yaml\n", "r.yaml:10:10", "extends", "circular", "remove"),
    ("- a list\n", "r.yaml:1:1", None, "", ""),
    ("a: [1\n", "r.yaml:2:1", None, "", ""),
]


@pytest.mark.parametrize(
    ("text", "where", "field", "message", "hint"), WRONG, ids=[f"{w[2]}-{i}" for i, w in enumerate(WRONG)]
)
def test_an_error_in_a_recipe_has_location_message_and_hint(
    here: Path, text: str, where: str, field: str | None, message: str, hint: str
) -> None:
    check_error(text, where, field, message, hint)


RDK = GOOD.replace("target: local", "target: rdk-x5")


@pytest.mark.parametrize(
    ("section", "field", "message", "hint"),
    [
        ("hb_mapper: {core_num: 2}", "compile.hb_mapper.core_num", "rdk-x5 (bayes-e) has no core_num 2", "allowed: 1"),
        ("hb_mapper: {optimize_level: O9}", "compile.hb_mapper.optimize_level", "expected", "O2"),
        ("hb_mapper: {opt: O2}", "compile.hb_mapper.opt", "unknown key", "optimize_level"),
    ],
)
def test_options_that_the_target_does_not_have(here: Path, section: str, field: str, message: str, hint: str) -> None:
    found = error(f"{RDK}compile: {{{section}}}\n")
    assert (found.field, str(found.where)[:10]) == (field, "r.yaml:10:")
    assert message in found.message and hint in (found.hint or "")


def test_a_section_of_another_backend_is_ignored(here: Path) -> None:
    load(GOOD + "compile: {hb_mapper: {core_num: 2}}\n")


def test_an_installed_backend_may_have_a_section(here: Path) -> None:
    Path("r.yaml").write_text(GOOD + "compile: {acme: {x: 1}}\n")
    (resolved,) = load_recipe(Path("r.yaml"), backends=lambda: ["ort", "acme"])
    assert (resolved.recipe.compile.model_extra or {})["acme"] == {"x": 1}


def test_all_errors_are_reported_in_order(here: Path) -> None:
    found = error("nmae: a\nmodel: {source: w.safetensors}\ndataset: {source: photos}\ncalibration: {count: x}\n")
    assert [str(e.where) for e in (found, *found.others)] == ["r.yaml:1:1", "r.yaml:1:1", "r.yaml:1:1", "r.yaml:4:22"]
    assert {e.field for e in (found, *found.others)} == {"nmae", "name", "target", "calibration.count"}


@pytest.mark.parametrize("text", ["calibration.count=x", "calibration.cuont=3", "nothing", "=3", "extends=a"])
def test_an_invalid_set_is_shown_as_typed(here: Path, text: str) -> None:
    assert str(error(GOOD, text).where).startswith(f"--set {text}:1:")


def test_set_overrides_the_file_and_paths_are_relative_to_their_file(here: Path) -> None:
    (here / "base").mkdir()
    (here / "base" / "photos").mkdir()
    (here / "base" / "w.safetensors").write_bytes(b"other")
    (here / "base" / "b.yaml").write_text(GOOD + "preprocess: {mean: [0, 0, 0], crop_pct: 0.9}\n")
    resolved = load("extends: base/b.yaml\nname: c\npreprocess: {mean: [1, 1, 1]}\n", "calibration.count=4")
    assert resolved.recipe.model.source == "base/w.safetensors"
    assert (resolved.recipe.name, resolved.recipe.calibration.count) == ("c", 4)
    assert resolved.recipe.preprocess.model_dump(exclude_none=True) == {"mean": (1, 1, 1), "crop_pct": 0.9}
    assert [f.name for f in resolved.files] == ["r.yaml", "b.yaml", "local.yaml"]
    assert load("extends: base/b.yaml\ndataset: {source: photos}\n").recipe.dataset.source == "photos"


def test_a_matrix_is_one_recipe_per_combination(here: Path) -> None:
    Path("r.yaml").write_text(GOOD + "matrix:\n  quantize.observer: [mse, minmax]\n  target: [local, rdk-x5]\n")
    found = {(r.recipe.name, r.recipe.quantize.observer.value, r.target.name) for r in load_recipe(Path("r.yaml"))}
    assert found == {(f"good-observer.{o}-target.{t}", o, t) for o in ("mse", "minmax") for t in ("local", "rdk-x5")}


def test_order_of_keys_and_comments_are_irrelevant(here: Path) -> None:
    reordered = "# a comment\n" + yaml.safe_dump(yaml.safe_load(GOOD), sort_keys=True, default_flow_style=True)
    assert load(reordered) == load(GOOD)


def test_a_target_next_to_the_recipe_takes_precedence(here: Path) -> None:
    (here / "targets").mkdir()
    (here / "targets" / "local.yaml").write_text("{name: local, description: mine, march: cpu, backend: ort}")
    assert load(GOOD).target.description == "mine"


def test_an_error_in_a_target_file_has_its_own_location(here: Path) -> None:
    (here / "mine.yaml").write_text("name: mine\ndescription: d\nmarch: bayez\nbackend: ort\n")
    found = error(swap("target: local", "target: mine.yaml"))
    assert str(found.where) == "mine.yaml:3:8" and "bayes" in (found.hint or "")


# --- committed files and the schema


@pytest.mark.parametrize("name", sorted(list_targets(ROOT)))
def test_built_in_targets_load_and_match_their_schema(name: str) -> None:
    target, path = load_target(name, ROOT)
    assert target.name == name and path.parent == built_in_targets()
    jsonschema.validate(yaml.safe_load(path.read_text()), target_schema())
    assert not target.allowed or target.sources, "a limit has a source"


RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.name))
def test_committed_recipes_load_and_match_the_schema(path: Path) -> None:
    assert load_recipe(path)
    jsonschema.validate(yaml.safe_load(path.read_text()), recipe_schema())


def test_the_quickstart_is_about_a_dozen_lines() -> None:
    lines = [line for line in (ROOT / "recipes" / "quickstart.yaml").read_text().splitlines() if line[:1] != "#"]
    assert len(lines) <= 15


@pytest.mark.parametrize("change", [{"nmae": "x"}, {"calibration": {"cuont": 3}}, {"calibration": {"count": "3"}}])
def test_the_schema_refuses_what_the_loader_refuses(change: dict[str, Any]) -> None:
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(GOOD), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**yaml.safe_load(GOOD), **change}, schema)


@pytest.mark.parametrize("make", [recipe_schema, target_schema, fleet_schema, suite_schema])
def test_every_field_has_a_description(make: Callable[[], dict[str, Any]]) -> None:
    schema = json.loads(json.dumps(make()))
    fields = [
        (part["title"], name, field.get("description", ""))
        for part in (schema, *schema["$defs"].values())
        for name, field in part.get("properties", {}).items()
    ]
    assert len(fields) > 15
    assert [(model, name) for model, name, text in fields if len(text.split()) < 2 or text[-1] not in ".)"] == []


def test_descriptions_are_the_docstrings_of_the_fields() -> None:
    assert "timm:NAME.TAG" in recipe_schema()["$defs"]["ModelSpec"]["properties"]["source"]["description"]


# --- properties

characters = st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"])  # YAML: no surrogate pairs
texts = st.text(characters, max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_any_bytes_load_or_raise_a_spec_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    try:
        load_yaml(path)
    except SpecError as found:
        assert found.where is None or found.where.line >= 1


@given(st.dictionaries(st.sampled_from([*Recipe.model_fields, "x"]), values, max_size=5))
@settings(max_examples=200, deadline=None)
def test_any_value_raises_only_a_spec_error(tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "value.yaml"
    path.write_text(json.dumps(value))
    with pytest.raises(SpecError):
        load_recipe(path)
        raise SpecError("the value happened to be valid")


@given(values)
@settings(max_examples=200, deadline=None)
def test_json_is_read_as_json(value: Any) -> None:
    node = parse_yaml(json.dumps({"k": value}), file="f", folder=Path())
    assert node is not None and node.plain() == {"k": value}


@given(st.text(max_size=40))
def test_a_source_is_parsed_or_refused(text: str) -> None:
    try:
        source = Source.parse(text)
    except ValueError:
        return
    assert source.locator in text


@pytest.mark.parametrize("member", ["../x", "/x", "a/../../x"])
def test_a_member_stays_inside_its_archive(member: str) -> None:
    with pytest.raises(ValueError, match="expected pypi"):
        Source.parse(f"pypi:a==1#{member}")
