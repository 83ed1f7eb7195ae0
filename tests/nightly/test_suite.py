"""load_suite: a suite's file to its jobs; every error with its place and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpudeploy.errors import SpecError
from bpudeploy.nightly.suite import LOCAL_BOARD, LoadedSuite, load_suite
from bpudeploy.spec.load import built_in_targets

RECIPE = """\
name: net
model: {source: weights.safetensors, architecture: test_vit, image_size: 64}
dataset: {source: images}
target: local
"""
FLEET = """\
boards:
  x5-a: {address: "10.0.0.1", target: rdk-x5, groups: [nightly]}
  x5-b: {address: "10.0.0.2", target: rdk-x5}
  s100: {address: "10.0.0.3", target: rdk-s100, groups: [nightly]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "weights.safetensors").write_bytes(b"")
    (tmp_path / "images").mkdir()
    (tmp_path / "net.yaml").write_text(RECIPE)
    (tmp_path / "fleet.yaml").write_text(FLEET)
    return tmp_path


def load(folder: Path, text: str) -> LoadedSuite:
    (folder / "suite.yaml").write_text(text)
    return load_suite(folder / "suite.yaml")


def errors(folder: Path, text: str) -> list[tuple[str, str | None, str | None, int | None]]:
    with pytest.raises(SpecError) as refused:
        load(folder, text)
    every = [refused.value, *refused.value.others]
    return [(e.message, e.field, e.hint, e.where.line if e.where else None) for e in every]


def test_each_recipe_is_a_job_for_each_target_with_the_boards_that_may_run_it(folder: Path) -> None:
    loaded = load(
        folder,
        "name: lab\nfleet: fleet.yaml\nbudget_minutes: 90\njobs:\n"
        "  - {recipe: net.yaml}\n"
        "  - {recipe: net.yaml, targets: [rdk-x5, rdk-s100], pool: group=nightly, value: 3}\n",
    )
    assert [(job.name, job.value, job.boards) for job in loaded.jobs] == [
        ("net@rdk-x5", 3.0, ("x5-a",)),
        ("net@rdk-s100", 3.0, ("s100",)),
        ("net@local", 1.0, (LOCAL_BOARD,)),
    ], "the most valuable first"
    assert loaded.budget_s == 5400
    assert loaded.baselines == folder / "baselines"


def test_a_job_without_a_pool_may_have_any_board_of_its_target(folder: Path) -> None:
    loaded = load(folder, "name: lab\nfleet: fleet.yaml\njobs: [{recipe: net.yaml, targets: [rdk-x5]}]\n")
    assert loaded.jobs[0].boards == ("x5-a", "x5-b")


def test_a_matrix_over_targets_is_filtered_and_fields_are_set(folder: Path) -> None:
    (folder / "many.yaml").write_text("extends: net.yaml\nname: many\nmatrix: {target: [local, sim-x5, sim-x3]}\n")
    text = "name: lab\njobs: [{recipe: many.yaml, targets: [sim-x3, local], set: [calibration.count=7]}]\n"
    loaded = load(folder, text)
    assert sorted(job.resolved.target.name for job in loaded.jobs) == ["local", "sim-x3"]
    assert {job.resolved.recipe.calibration.count for job in loaded.jobs} == {7}


def test_checks_are_the_suite_s_or_the_job_s_own(folder: Path) -> None:
    loaded = load(
        folder,
        "name: lab\nchecks: {p50: 5, memory: null}\njobs:\n"
        "  - {recipe: net.yaml}\n"
        "  - {recipe: net.yaml, targets: [sim-x5], checks: {top1: 1}}\n",
    )
    first, second = (job.checks for job in loaded.jobs)
    assert (first.p50, first.memory, first.top1) == (5.0, None, 0.5)
    assert (second.p50, second.memory, second.top1) == (3.0, 10.0, 1.0)


@pytest.mark.parametrize(
    ("text", "message", "field", "hint", "line"),
    [
        ("name: lab\njobs: []\n", "at least 1", "jobs", None, 2),
        ("name: lab\njobs: [{recipe: no.yaml}]\n", "there is no", "jobs[0].recipe", "relative to the suite", 2),
        (
            "name: lab\njobs:\n  - {recipe: net.yaml, targets: [rdk-x5]}\n",
            "net is for rdk-x5, and the suite has no boards",
            "jobs[0].recipe",
            "add `fleet: FILE`",
            3,
        ),
        (
            "name: lab\nfleet: nofleet.yaml\njobs: [{recipe: net.yaml}]\n",
            "there is no",
            "fleet",
            "relative to the suite's file",
            2,
        ),
        (
            "name: lab\nfleet: fleet.yaml\njobs:\n  - {recipe: net.yaml, targets: [rdk-x5], pool: group=night}\n",
            "the fleet has no rdk-x5 that matches group=night",
            "jobs[0].pool",
            "the fleet's boards are rdk-s100, rdk-x5",
            4,
        ),
        (
            "name: lab\nfleet: fleet.yaml\njobs:\n  - {recipe: net.yaml, targets: [rdk-x5], pool: grup=a}\n",
            "'grup' in the selector",
            "jobs[0].pool",
            "did you mean group?",
            4,
        ),
        (
            "name: lab\nfleet: fleet.yaml\njobs:\n  - {recipe: net.yaml, pool: group=nightly}\n",
            "target local has an embedded board, so it has no pool",
            "jobs[0].pool",
            "remove it",
            4,
        ),
        (
            "name: lab\njobs:\n  - {recipe: net.yaml}\n  - {recipe: net.yaml}\n",
            "net@local is in the suite twice",
            "jobs[1]",
            "another `name:`",
            4,
        ),
        (
            "name: lab\nquarantine: {boards: {x5: broken fan}}\njobs: [{recipe: net.yaml}]\n",
            "no board of the fleet is named 'x5'",
            "quarantine.boards.x5",
            "remove it",
            2,
        ),
        ("name: lab\nbudget: 8h\njobs: [{recipe: net.yaml}]\n", "unknown key 'budget'", "budget", "budget_minutes", 2),
        ("name: lab\nretries: 2.5\njobs: [{recipe: net.yaml}]\n", "expected a whole number", "retries", None, 2),
    ],
)
def test_an_error_names_its_place_and_the_fix(
    folder: Path, text: str, message: str, field: str, hint: str | None, line: int
) -> None:
    ((said, at, fix, where), *_) = errors(folder, text)
    assert message in said and (at, where) == (field, line)
    assert hint is None or (fix is not None and hint in fix)


def test_all_errors_are_told_at_once(folder: Path) -> None:
    found = errors(folder, "name: lab\njobs:\n  - {recipe: no.yaml}\n  - {recipe: none.yaml}\n")
    assert [line for _, _, _, line in found] == [3, 4]


def test_a_recipe_s_error_is_the_recipe_s(folder: Path) -> None:
    (folder / "net.yaml").write_text(RECIPE + "colour: red\n")
    with pytest.raises(SpecError, match="unknown key 'colour'") as refused:
        load(folder, "name: lab\njobs: [{recipe: net.yaml}]\n")
    assert refused.value.where is not None and refused.value.where.file.endswith("net.yaml")


def test_a_fleet_s_own_targets_are_those_beside_its_file(folder: Path) -> None:
    own = folder / "lab" / "targets"
    own.mkdir(parents=True)
    text = (built_in_targets() / "rdk-x5.yaml").read_text().replace("name: rdk-x5", "name: x5-of-ours")
    (own / "x5-of-ours.yaml").write_text(text)
    (folder / "lab" / "fleet.yaml").write_text("boards:\n  a: {address: 10.0.0.1, target: x5-of-ours}\n")
    (folder / "net.yaml").write_text(RECIPE.replace("target: local", "target: lab/targets/x5-of-ours.yaml"))
    loaded = load(folder, "name: lab\nfleet: lab/fleet.yaml\njobs: [{recipe: net.yaml, pool: chip=bayes-e}]\n")
    assert [(job.name, job.boards) for job in loaded.jobs] == [("net@x5-of-ours", ("a",))]
