"""The networks of published rows: their parameter counts, and export without computing convolutions."""

from __future__ import annotations

import csv
import re

import pytest
import torch

from benchmarks.latency_graphs import Network, idle_convolutions
from benchmarks.latency_rows import family_of
from benchmarks.yolo_shapes import Task, yolo
from bpudeploy.restructure.export import export
from tests.predict.test_fit import DATA, data


@data
def test_the_yolos_have_the_published_parameters() -> None:
    checked = 0
    with DATA.open(newline="") as file:
        rows = {row["model"]: row for row in csv.DictReader(file) if row["params_m"]}
    for model, row in rows.items():
        if family_of(model) is None or re.match("YOLO(v5|v8|11|12)[ns]", model) is None:
            continue
        module = Network(model, row["task"], 0).module()
        count = sum(p.numel() for p in module.parameters()) / 1e6
        assert count == pytest.approx(float(row["params_m"]), rel=0.04), model
        checked += 1
    assert checked >= 10


def test_idle_convolutions_leave_the_graph_as_it_is() -> None:
    net = yolo("11", "n", Task.DETECT)
    plain = export(net, (1, 3, 64, 64))
    with idle_convolutions():
        idle = export(net, (1, 3, 64, 64))

    def convolutions(model: object) -> list[tuple[str, list[str], list[int]]]:
        nodes = model.graph.node  # type: ignore[attr-defined]
        return [(n.op_type, list(n.input)[1:2], _kernel(n)) for n in nodes if n.op_type == "Conv"]

    assert convolutions(plain) == convolutions(idle)
    assert [n.op_type for n in plain.graph.node] == [n.op_type for n in idle.graph.node]
    assert torch.nn.functional.conv2d.__module__ != "benchmarks.latency_graphs"


def _kernel(node: object) -> list[int]:
    return [v for a in node.attribute if a.name in ("kernel_shape", "pads", "strides", "group") for v in (*a.ints, a.i)]  # type: ignore[attr-defined]
