"""restructure.approximate in a recipe: validation, and the steps of each option."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import bpudeploy
from bpudeploy.errors import SpecError
from bpudeploy.planning import pipeline
from bpudeploy.planning.step import Step
from bpudeploy.spec.approximate import ApproximateSpec
from bpudeploy.spec.load import load_recipe
from bpudeploy.spec.schema import recipe_schema

PLACE = "restructure.approximate"
ALL = [
    "drop_blocks=[9]",
    "linear_blocks=[[1, 2]]",
    "parallel_blocks=[[3, 4], [5, 6]]",
    "reduce_tokens={after_block: 4, factor: 2}",
    "prune_heads={share: 0.25}",
    "gelu=quick",
]


def spec(path: Path, *sets: str) -> ApproximateSpec:
    resolved = bpudeploy.load(path, *(f"{PLACE}.{s}" for s in sets))
    return resolved.recipe.restructure.approximate


def approximations(path: Path, *sets: str) -> list[Step]:
    """Return the plan's steps that approximate."""
    plan = pipeline.plan(bpudeploy.load(path, *(f"{PLACE}.{s}" for s in sets)))
    return [step for step in plan.steps if step.group == "approximate"]


def canonical(steps: list[Step]) -> list[tuple[str, Any]]:
    return [(step.name.removeprefix("approximate/"), dict(step.options.canonical())) for step in steps]


def test_nothing_is_approximated_unless_named(tiny: Path) -> None:
    assert spec(tiny) == ApproximateSpec() and approximations(tiny) == []


def test_the_order_is_fixed_and_blocks_keep_their_numbers(tiny: Path) -> None:
    expected = [
        ("drop-blocks", {"blocks": (9,)}),
        ("linear-blocks", {"ranges": ((1, 2),), "absent": (9,)}),
        ("parallel-blocks", {"pairs": ((3, 4), (5, 6)), "absent": (1, 2, 9)}),
        ("reduce-tokens", {"after_block": 3, "factor": 2, "absent": (1, 2, 4, 6, 9)}),
        ("prune-heads", {"share": 0.25, "heads": (), "absent": (1, 2, 4, 6, 9)}),
        ("gelu", {"form": "quick"}),
    ]
    assert canonical(approximations(tiny, *ALL)) == canonical(approximations(tiny, *reversed(ALL))) == expected
    assert [step.options.label for step in approximations(tiny, *ALL)] == [
        "+ drop blocks 9",
        "+ linear blocks 1 to 2",
        "+ parallel blocks 3 and 4, 5 and 6",
        "+ tokens pooled 2x2 after block 4",
        "+ 25 % of heads pruned",
        "+ gelu quick",
    ]


@pytest.mark.parametrize(
    ("sets", "field", "message", "hint"),
    [
        (["gelu=fast"], "gelu", "expected 'tanh', 'quick' or 'piecewise'", "'tanh'"),
        (["gelus=tanh"], "gelus", "unknown key", "did you mean gelu?"),
        (["drop_blocks=[1, 1]"], "drop_blocks[1]", "block 1 is already in drop_blocks", "list each block once"),
        (["drop_blocks=[-1]"], "drop_blocks[0]", "greater than or equal to 0", "correct the value"),
        (["linear_blocks=[[5, 3]]"], "linear_blocks[0]", "[5, 3] is reversed", "write [3, 5]"),
        (["linear_blocks=[[1, 3], [3, 4]]"], "linear_blocks[1]", "block 3 is already in linear_blocks", "once"),
        (["linear_blocks=[[1, 3]]", "drop_blocks=[2]"], "linear_blocks[0]", "already in drop_blocks", "once"),
        (["parallel_blocks=[[1, 3]]"], "parallel_blocks[0]", "1 and 3 are not consecutive", "write [1, 2]"),
        (["parallel_blocks=[[1, 2], [2, 3]]"], "parallel_blocks[1]", "already in parallel_blocks", "once"),
        (["prune_heads={}"], "prune_heads", "share or heads is missing", "give one of the two"),
        (["prune_heads={share: 0.5, heads: [[0, 1]]}"], "prune_heads", "mutually exclusive", "give one of the two"),
        (["prune_heads={share: 1.0}"], "prune_heads.share", "less than 1", "correct the value"),
        (["prune_heads={heads: [[0, 1], [0, 1]]}"], "prune_heads.heads", "listed twice", "list each head once"),
        (["prune_heads={heads: [[2, 1]]}", "drop_blocks=[2]"], "prune_heads.heads[0]", "in drop_blocks", "other"),
        (["reduce_tokens={factor: 2}"], "reduce_tokens.after_block", "is missing", "add `after_block:`"),
        (["reduce_tokens={after_block: 2}", "drop_blocks=[2]"], "reduce_tokens.after_block", "in drop_blocks", "kept"),
        (
            ["reduce_tokens={after_block: 2}", "parallel_blocks=[[2, 3]]"],
            "reduce_tokens.after_block",
            "ends with the next one",
            "choose a block that is kept",
        ),
    ],
)
def test_errors_are_reported_before_anything_runs(
    tiny: Path, sets: list[str], field: str, message: str, hint: str
) -> None:
    with pytest.raises(SpecError) as caught:
        spec(tiny, *sets)
    errors = [caught.value, *caught.value.others]
    found = [e for e in errors if e.field == f"{PLACE}.{field}"]
    assert found and message in found[0].message and hint in (found[0].hint or ""), [
        (e.field, e.message) for e in errors
    ]
    assert found[0].where is not None


def test_features_have_no_top1_to_measure(tiny: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_recipe(tiny, [f"{PLACE}.gelu=tanh", "model.outputs=features"])
    assert any(e.field == PLACE and "features has none" in e.message for e in (caught.value, *caught.value.others))


def test_the_schema_has_the_fields_and_their_texts() -> None:
    parts = recipe_schema()["$defs"]
    assert set(parts["ApproximateSpec"]["properties"]) == {s.split("=")[0] for s in ALL}
    assert "linear_blocks" in parts["ApproximateSpec"]["properties"]
    assert "fitted on the calibration images" in parts["ApproximateSpec"]["properties"]["linear_blocks"]["description"]
    assert "must divide" in parts["ReduceTokensSpec"]["properties"]["factor"]["description"]
