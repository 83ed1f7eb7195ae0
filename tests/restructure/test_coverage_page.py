"""The coverage page is made of the committed table, and the table of a sweep's results."""

from __future__ import annotations

import json
from typing import Any

from benchmarks import coverage, coverage_page


def declared() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((coverage_page.ROOT / coverage.NAMES).read_text())
    return found


def test_the_page_is_made_of_the_committed_table() -> None:
    cnns = json.loads(coverage_page.CONVOLUTIONAL.read_text())
    assert coverage_page.PAGE.read_text() == coverage_page.page(declared(), coverage_page.read_rows(), cnns)


def test_the_table_has_one_line_for_each_declared_model() -> None:
    names, rows = declared(), coverage_page.read_rows()
    wanted = {*coverage_page.FAMILIES.values(), *names["smallest"].values(), *names["sample"]}
    assert [r["model"] for r in rows] == sorted(wanted)
    assert all(list(r) == list(coverage_page.COLUMNS) for r in rows)


def test_a_result_of_a_sweep_is_a_line_of_the_table() -> None:
    result = {
        "name": "resnet18",
        "passed": True,
        "reason": "",
        "error": 1.2e-07,
        "noise": None,
        "parameters_m": 11.7,
        "size": 224,
        "nodes_before": 69,
        "nodes": {"Conv": 20, "Relu": 17, "Add": 8, "Reshape": 1},
        "cpu": {"bayes-e": {}, "bernoulli2": {"Add": 8, "Reshape": 1}},
    }
    failed = {"name": "sequencer2d_s", "passed": False, "reason": "LSTM"}
    rows = {r["model"]: r for r in coverage_page.rows_of(declared(), [failed | {"reason": "old"}, result, failed])}
    assert (rows["sequencer2d_s"]["result"], rows["sequencer2d_s"]["reason"]) == ("no", "LSTM")
    row = rows["resnet18"]
    assert (row["family"], row["result"], row["error"], row["nodes_after"]) == ("ResNet", "yes", "1.2e-07", "46")
    assert (row["conv"], row["matmul"], row["cpu_x5"], row["cpu_x3"]) == ("20", "0", "none", "Add 8; Reshape 1")
    assert coverage_page.convolutional([result, failed]) == {"networks": 1, "no_moves": 0, "more_nodes": {}}
