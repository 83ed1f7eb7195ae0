"""Targets: the number formats of each march, and their sources."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from bpudeploy import Target
from bpudeploy.conformance.table import op_table
from bpudeploy.errors import SpecError
from bpudeploy.spec.load import built_in_targets, load_target
from bpudeploy.spec.precision import Precision, PrecisionRules, Rounding
from bpudeploy.spec.schema import target_schema
from bpudeploy.spec.target import March

NAMES = sorted(path.stem for path in built_in_targets().glob("*.yaml"))
INT8, INT16, FLOAT32 = Precision.INT8, Precision.INT16, Precision.FLOAT32
BOTH = (INT8, INT16)
EXPECTED = {
    "rdk-x3": ((INT8,), INT8),
    "rdk-x5": (BOTH, INT16),
    "rdk-ultra": (BOTH, INT16),
    "rdk-s100": (BOTH, INT16),
    "sim-x3": ((INT8,), INT8),
    "sim-x5": (BOTH, INT16),
    "sim-s100": (BOTH, INT16),
    "local": (BOTH, FLOAT32),
    "cpu-ssh": (BOTH, FLOAT32),
}


def target(name: str) -> Target:
    return load_target(name, Path())[0]


def test_every_target_has_its_precisions() -> None:
    found = {name: target(name).precision for name in NAMES}
    assert {name: (rules.conv, rules.elsewhere) for name, rules in found.items()} == EXPECTED


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("sim-")])
def test_a_simulated_target_has_the_precisions_of_the_real_one(name: str) -> None:
    real = target(name.replace("sim-", "rdk-"))
    assert (target(name).march, target(name).precision) == (real.march, real.precision)


@pytest.mark.parametrize("name", NAMES)
def test_every_fact_of_precision_has_a_source(name: str) -> None:
    one = target(name)
    facts = {f"precision.{field}" for field in PrecisionRules.model_fields}
    assert facts <= set(one.sources)
    assert "precision" in yaml.safe_load((built_in_targets() / f"{name}.yaml").read_text()), "explicit, not a default"
    if one.march is not March.CPU:
        assert one.sources["precision.rounding"] == "not published, assumed"


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("rdk-")])
def test_precisions_are_those_of_the_operator_tables(name: str) -> None:
    one = target(name)
    table = op_table(one.march)
    assert {one.precision.elsewhere, *one.precision.conv, *one.precision.matmul} <= set(table.general.dtypes)
    assert set(one.precision.conv) <= set(table.ops["Conv"].dtypes)
    assert set(one.precision.matmul) <= set(table.ops["MatMul"].dtypes)
    assert one.precision.elsewhere in table.ops["Add"].dtypes


def test_a_target_without_precisions_has_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("{name: mine, description: mine, march: cpu, backend: ort}")
    rules = load_target("mine.yaml", tmp_path)[0].precision
    assert rules == PrecisionRules() and rules.rounding is Rounding.HALF_EVEN and rules.elsewhere is FLOAT32


@pytest.mark.parametrize(
    ("precision", "field"),
    [
        ("{elsewhere: int4}", "precision.elsewhere"),
        ("{conv: [int8, int32]}", "precision.conv[1]"),
        ("{rounding: up}", "precision.rounding"),
        ("{int16_cost: {products: 0.5}}", "precision.int16_cost.products"),
        ("{weights: int8}", "precision.weights"),
    ],
)
def test_invalid_precisions_are_located_and_refused_by_the_schema(tmp_path: Path, precision: str, field: str) -> None:
    text = f"name: mine\ndescription: mine\nmarch: cpu\nbackend: ort\nprecision: {precision}\n"
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SpecError) as caught:
        load_target("mine.yaml", tmp_path)
    assert caught.value.field == field and caught.value.where is not None and caught.value.where.line == 5
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), target_schema())


def test_the_schema_lists_precision() -> None:
    schema = target_schema()
    assert schema["properties"]["precision"]["description"]
    assert set(schema["$defs"]["PrecisionRules"]["properties"]) == set(PrecisionRules.model_fields)
    jsonschema.Draft202012Validator.check_schema(schema)
