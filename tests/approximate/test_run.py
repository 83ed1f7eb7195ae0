"""Approximations in a run of a tiny model: each has a step, a graph and a line of accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

import bpudeploy
from bpudeploy.cli.main import main
from bpudeploy.errors import StageError
from bpudeploy.events import Event, Note
from bpudeploy.planning import pipeline
from bpudeploy.restructure.record import GraphRecord, count_nodes
from bpudeploy.run.runner import RunResult, run

PLACE = "restructure.approximate"
SETS = [
    f"{PLACE}.drop_blocks=[0]",
    f"{PLACE}.linear_blocks=[[1, 1]]",
    f"{PLACE}.parallel_blocks=[[2, 3]]",
    f"{PLACE}.reduce_tokens={{after_block: 3, factor: 2}}",
    f"{PLACE}.prune_heads={{heads: [[4, 1]]}}",
    f"{PLACE}.gelu=piecewise",
]
STEPS = ["drop-blocks", "linear-blocks", "parallel-blocks", "reduce-tokens", "prune-heads", "gelu"]
QUANTIZE = ["quantize", "quantize/scores", "quantize/golden", "quantize/layers", "quantize/integers"]


def go(recipe: Path, store: Path, sets: list[str], events: list[Event] | None = None) -> RunResult:
    resolved = bpudeploy.load(recipe, *sets)
    plan = pipeline.plan(resolved).until("quantize")
    return run(plan, store, events.append if events is not None else lambda event: None)


AFTER = ("quantize", "quantize/scores", "quantize/golden", "quantize/layers", "quantize/integers")


def test_an_option_reruns_only_what_comes_after_it(tiny: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    plain = go(tiny, store, [])
    first = go(tiny, store, SETS)
    assert first.ran == [*(f"approximate/{s}" for s in STEPS), *QUANTIZE]
    assert first.artifact("restructure").digest == plain.artifact("restructure").digest
    assert go(tiny, store, SETS).ran == []
    changed = go(tiny, store, [*SETS, f"{PLACE}.reduce_tokens={{after_block: 4, factor: 2}}"])
    assert changed.ran == [*(f"approximate/{s}" for s in STEPS[3:]), *QUANTIZE]
    assert go(tiny, store, [*SETS, f"{PLACE}.gelu=tanh"]).ran == ["approximate/gelu", *QUANTIZE]
    recalibrated = go(tiny, store, [*SETS, "calibration.seed=7"]).ran
    assert "approximate/drop-blocks" not in recalibrated and "approximate/linear-blocks" in recalibrated
    one = f"{PLACE}.gelu=quick"
    assert go(tiny, store, [one]).ran == ["approximate/gelu", *QUANTIZE]
    assert "approximate/gelu" not in go(tiny, store, [one, "calibration.seed=9"]).ran, "it takes no calibration"
    with pytest.raises(StageError, match="drop_blocks names block 6, and the graph has blocks 0 to 5"):
        go(tiny, store, [f"{PLACE}.drop_blocks=[6]"])


def test_each_graph_keeps_the_proof_of_the_exact_one_and_counts_its_own_nodes(tiny: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    result = go(tiny, tmp_path / "store", SETS, events)
    exact = GraphRecord.read(onnx.load(result.artifact("restructure").path))
    sizes = [sum(exact.nodes.values())]
    for step in STEPS:
        model = onnx.load(result.artifact(f"approximate/{step}").path)
        record = GraphRecord.read(model)
        names = {node.name for node in model.graph.node}
        assert record.proof == exact.proof and record.nodes == count_nodes(model)
        assert record.keep_float and set(record.keep_float) <= names
        sizes.append(len(names))
    assert sizes[1] < sizes[0] and sizes[2] < sizes[1] and sizes[3] < sizes[2]
    notes = {e.step: e.text for e in events if isinstance(e, Note) and "nodes" in e.text}
    assert "blocks 0 of 6 removed" in notes["approximate/drop-blocks"]
    assert "R² 0." in notes["approximate/linear-blocks"] or "R² 1." in notes["approximate/linear-blocks"]
    assert f"{sizes[0]} -> {sizes[1]} nodes" in notes["approximate/drop-blocks"]


def test_every_approximation_has_its_line_of_accuracy(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["run", str(tiny), *(part for s in SETS for part in ("--set", s))]
    assert main([*argv, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    forms = [a["form"] for a in summary["accuracy"]]
    labels = [
        "+ drop blocks 0",
        "+ linear blocks 1",
        "+ parallel blocks 2 and 3",
        "+ tokens pooled 2x2 after block 3",
        "+ 1 head pruned",
        "+ gelu piecewise",
    ]
    assert forms == ["float", "restructured", *labels, "int8", "on the board"]
    assert all(a["drop"] is not None and a["agreement"] is not None for a in summary["accuracy"][1:])
    assert summary["accuracy"][-1]["correct"] == summary["accuracy"][-2]["correct"]
    page = (tmp_path / summary["run_directory"] / "report.html").read_text()
    assert all(f"<td>{label}</td>" in page for label in labels)
    assert main(["report", summary["run_directory"]]) == 0
    out = capsys.readouterr().out
    assert all(label in out for label in labels)
    rows = [line for line in out.splitlines() if "host, onnxruntime" in line]
    assert len({line.index("host, onnxruntime") for line in rows}) == 1, "the columns are aligned"
