"""The whole graph: folding, subgraphs and hand-overs, costs, hints, model findings, the tables."""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpudeploy.conformance.graph import read_graph
from bpudeploy.conformance.grouping import group_nodes, network_parts
from bpudeploy.conformance.picture import picture
from bpudeploy.conformance.placement import placement
from bpudeploy.conformance.report import Cost, Device, Fix, Form, Placement
from bpudeploy.conformance.table import Support, op_table
from bpudeploy.spec.target import March
from tests.conformance.graphs import S100, ULTRA, X3, X5, graph, ints, one, zeros

BPUS = [m for m in March if m is not March.CPU]
UNARY = ["Relu", "Neg", "Erf", "Sin", "Sqrt", "Exp"]  # on X5: BPU, CPU, BPU, unknown, BPU, BPU


@pytest.mark.parametrize("march", BPUS)
def test_every_fact_has_a_source(march: March) -> None:
    table = op_table(march)
    assert table.ops and table.general.source and table.model.source and table.notes
    for name, fact in table.ops.items():
        assert fact.source and fact.confidence, name
        if fact.device is Support.CONDITIONAL:
            assert fact.constraints.given(), f"{name} is conditional: on what?"
        parts = fact.constraints.parts or ()
        assert set(parts) <= set(table.ops), name


def test_a_march_without_a_public_table_is_marked() -> None:
    assert all(f.confidence == "seen in log" for f in op_table(March.NASH_E).ops.values())
    assumed = {f.confidence for f in op_table(March.NASH_P).ops.values()}
    assert assumed == {"assumed equal to nash-e"} and not op_table(March.NASH_P).complete
    assert {m for m in BPUS if op_table(m).complete} == {X3, X5, ULTRA}


def test_the_tables_are_shipped_as_one_file_per_march() -> None:
    files = {f.name for f in resources.files("bpudeploy.conformance").joinpath("ops").iterdir()}
    assert files == {f"{march}.json" for march in BPUS}


def test_a_march_that_is_no_bpu_has_no_table() -> None:
    with pytest.raises(KeyError):
        op_table(March.CPU)


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Draw a graph of unary nodes and Adds, each fed by earlier tensors; every leaf is an output."""
    count = draw(st.integers(1, 14))
    nodes: list[tuple[str, list[str], list[str], dict[str, Any]]] = []
    tensors, read = ["x"], set()
    for i in range(count):
        op = draw(st.sampled_from([*UNARY, "Add"]))
        chosen = [draw(st.sampled_from(tensors)) for _ in range(2 if op == "Add" else 1)]
        nodes.append((op, chosen, [f"t{i}"], {}))
        read |= set(chosen)
        tensors.append(f"t{i}")
    leaves = [t for t in tensors[1:] if t not in read]
    return graph(nodes, {"x": (1, 4, 4, 4)}, outputs=leaves)


@settings(max_examples=150, deadline=None)
@given(graphs(), st.sampled_from([*BPUS, March.CPU]))
def test_every_node_is_placed_once_and_totals_add_up(model: onnx.ModelProto, march: March) -> None:
    found = placement(model, march)
    assert [n.name for n in found.nodes] == [n.name for n in model.graph.node]
    assert sum(t.nodes for t in found.totals) == len(found.nodes)
    assert sum((n.cost for n in found.nodes), Cost()) == sum((t.cost for t in found.totals), Cost())
    numbers = {n.segment for n in found.nodes if n.device is Device.BPU}
    assert numbers == set(range(found.cuts.segments))
    assert all((n.segment is None) == (n.device is not Device.BPU) for n in found.nodes)
    _no_cycle(model, found)
    crossing = _crossing(model, found)
    assert len(crossing) == found.cuts.handovers
    assert found.cuts.handover_bytes == 64 * len(crossing)  # each tensor is 1x4x4x4
    if all(n.device is Device.BPU for n in found.nodes):
        assert found.cuts.handovers == 0
    shown = [n for _, nodes in network_parts(found.nodes) for n in nodes]
    assert sorted(n.name for n in shown) == sorted(n.name for n in found.nodes)
    assert sum(g.nodes for g in group_nodes(found.nodes)) == len(found.nodes)
    assert picture(found).count("<g>") == len(found.nodes)


def _crossing(model: onnx.ModelProto, found: Placement) -> set[tuple[str, bool]]:
    on = {n.output[0]: p.device is Device.BPU for n, p in zip(model.graph.node, found.nodes, strict=True)}
    return {
        (name, on[node.output[0]])
        for node in model.graph.node
        for name in node.input
        if name in on and on[name] != on[node.output[0]]
    }


def _no_cycle(model: onnx.ModelProto, found: Placement) -> None:
    """Fail if subgraphs and single nodes cannot run one after the other."""
    unit = {
        n.output[0]: (p.segment, p.name if p.segment is None else "")
        for n, p in zip(model.graph.node, found.nodes, strict=True)
    }
    needs: dict[object, set[object]] = {u: set() for u in unit.values()}
    for node in model.graph.node:
        own = unit[node.output[0]]
        needs[own] |= {unit[name] for name in node.input if name in unit} - {own}
    done: set[object] = set()
    while len(done) < len(needs):
        free = [u for u, wanted in needs.items() if u not in done and wanted <= done]
        assert free, "subgraphs wait for each other"
        done.update(free)


def chain(*ops: str, opset: int = 11) -> onnx.ModelProto:
    nodes: list[Any] = [(op, [f"t{i}"], [f"t{i + 1}"], {}) for i, op in enumerate(ops)]
    return graph(nodes, {"t0": (1, 4, 4, 4)}, opset=opset)


def test_segments_and_handovers_of_a_chain() -> None:
    found = placement(chain("Relu", "Neg", "Relu", "Exp", "Neg"), X5)
    assert [n.segment for n in found.nodes] == [0, None, 1, 1, None]
    assert (found.cuts.segments, found.cuts.handovers) == (2, 3)
    assert [n.takes_over for n in found.nodes] == [0, 1, 1, 0, 1]


def test_a_skip_connection_over_the_cpu_does_not_merge_subgraphs() -> None:
    nodes: list[Any] = [("Relu", ["x"], ["a"], {}), ("Neg", ["a"], ["b"], {}), ("Add", ["a", "b"], ["c"], {})]
    found = placement(graph(nodes, {"x": (1, 4, 4, 4)}), X5)
    assert [n.segment for n in found.nodes] == [0, None, 1]


def test_unknown_nodes_give_a_range() -> None:
    cuts = placement(chain("Relu", "Shrink", "Relu"), X5).cuts
    assert (cuts.segments, cuts.segments_at_best) == (2, 1)
    assert (cuts.handovers, cuts.handovers_at_best) == (2, 0)


def test_nodes_that_depend_on_no_input_are_folded() -> None:
    nodes: list[Any] = [
        ("Shape", ["x"], ["s"], {}),
        ("Gather", ["s", "i"], ["n"], {"axis": 0}),
        ("Concat", ["n", "rest"], ["shape"], {"axis": 0}),
        ("Transpose", ["w"], ["wt"], {}),
        ("Reshape", ["x", "shape"], ["y"], {}),
        ("MatMul", ["y", "wt"], ["z"], {}),
    ]
    constants: dict[str, Any] = {"i": ints(0), "rest": ints(-1), "w": zeros(7, 64)}
    found = placement(graph(nodes, {"x": (2, 4, 4, 4)}, constants), X5)
    assert [n.device is Device.FOLDED for n in found.nodes] == [True, True, True, True, False, False]
    assert found.nodes[4].outputs == ((2, 64),) and found.nodes[5].outputs == ((2, 7),)
    assert found.total(Device.FOLDED).cost == Cost()


def test_weights_that_are_inputs_of_the_graph_are_constants() -> None:
    nodes: list[Any] = [("Conv", ["x", "w"], ["y"], {})]
    model = graph(nodes, {"x": (1, 8, 4, 4), "w": (8, 8, 3, 3)})
    (node,) = read_graph(model, {"w"})
    assert [t.name for t in node.features] == ["x"] and [t.name for t in node.constants] == ["w"]


@pytest.mark.parametrize(
    ("op", "shapes", "weights", "attributes", "macs"),
    [
        ("Conv", [(1, 8, 4, 4)], (zeros(6, 8, 3, 3),), {"pads": [1, 1, 1, 1]}, 6 * 16 * 8 * 9),
        ("Conv", [(1, 8, 4, 4)], (zeros(8, 1, 3, 3),), {"pads": [1, 1, 1, 1], "group": 8}, 8 * 16 * 9),
        ("ConvTranspose", [(1, 8, 4, 4)], (zeros(8, 6, 2, 2),), {"strides": [2, 2]}, 8 * 16 * 6 * 4),
        ("MatMul", [(1, 3, 5, 7), (1, 3, 7, 2)], (), {}, 3 * 5 * 7 * 2),
        ("Gemm", [(1, 7)], (zeros(2, 7),), {"transB": 1}, 14),
        ("Add", [(1, 8, 4, 4)] * 2, (), {}, 0),
    ],
)
def test_macs(op: str, shapes: list[Any], weights: Any, attributes: Any, macs: int) -> None:
    assert one(op, shapes, X5, weights=weights, **attributes).cost.macs == macs


def test_other_costs() -> None:
    conv = one("Conv", [(1, 8, 4, 4)], X5, weights=(zeros(6, 8, 3, 3), zeros(6)), pads=[1, 1, 1, 1]).cost
    assert (conv.bytes_read, conv.bytes_written, conv.weight_bytes, conv.element_ops) == (128, 96, 438, 0)
    assert one("Relu", [(1, 8, 4, 4)], X5).cost.element_ops == 128
    assert one("ReduceMean", [(1, 8, 4, 4)], X5, axes=[1]).cost.element_ops == 128
    assert one("MaxPool", [(1, 8, 4, 4)], X5, kernel_shape=[2, 2], strides=[2, 2]).cost.element_ops == 128
    moved = one("Transpose", [(1, 8, 4, 4)], X5, perm=[0, 2, 3, 1]).cost
    assert (moved.element_ops, moved.bytes_read, moved.bytes_written) == (0, 128, 128)


def test_attributes_of_an_unknown_operator_mean_nothing() -> None:
    model = graph([("Mystery", ["x", "w"], ["y"], {"group": "all"})], {"x": (1, 8, 4, 4), "w": (1, 8, 4, 4)})
    assert placement(model, X5).nodes[0].cost.macs == 0


def test_hints_count_the_remaining_segments() -> None:
    nodes: list[Any] = [("Relu", ["x"], ["a"], {}), ("Softmax", ["a"], ["b"], {"axis": 3}), ("Relu", ["b"], ["y"], {})]
    model = graph(nodes, {"x": (1, 4, 4, 4)})
    found = placement(model, X5, form=Form.ORIGINAL)
    (help_,) = found.helps
    assert (help_.fix, help_.ops, help_.nodes, help_.segments_after) == (Fix.COMPILER_OPTION, ("Softmax",), 1, 1)
    assert found.cuts.segments == 2
    assert placement(model, X5).cuts.segments == 1  # the restructured form, for which `run` sets the option


def test_hints_for_an_original_graph_mention_the_rewrite() -> None:
    model = graph([("MatMul", ["x", "y"], ["z"], {})], {"x": (1, 3, 9, 4), "y": (1, 3, 4, 9)})
    assert placement(model, X3, form=Form.ORIGINAL).helps[0].fix is Fix.RESTRUCTURE
    assert placement(model, X3).helps[0].fix is Fix.NONE


def test_findings_about_the_whole_model() -> None:
    model = chain("Relu", opset=17)
    model.ir_version = 8
    said = " | ".join(placement(model, X5).model_findings)
    assert "opset 17: the compiler supports 10 or 11" in said and "IR version 8" in said and "no convolution" in said
    assert "opset 20: the compiler supports 1 to 19" in placement(chain("Relu", opset=20), S100).model_findings[0]
    flat = graph([("Relu", ["x"], ["y"], {})], {"x": (2, 3)})
    said = " | ".join(placement(flat, X5).model_findings)
    assert "is 2-D" in said and "batch of 2" in said


def test_a_target_without_a_bpu_runs_everything_on_the_cpu() -> None:
    found = placement(chain("Relu", "Sin"), March.CPU)
    assert {n.device for n in found.nodes} == {Device.CPU} and "no BPU" in found.notes[0]
    assert found.macs_on_bpu is None and found.cuts.segments == 0


def test_an_operator_of_another_domain_is_unknown() -> None:
    model = chain("Relu")
    model.graph.node[0].domain = "com.microsoft"
    (node,) = placement(model, X5).nodes
    assert node.device is Device.UNKNOWN and "com.microsoft" in node.reason


def test_rows_are_the_numbered_parts_of_the_network() -> None:
    names = ["/stem/conv/Conv", *[f"/blocks/blocks.{b}/attn/n{i}/Relu" for b in (0, 1) for i in range(6)], "/head/Relu"]
    model = chain(*["Relu"] * len(names))
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    assert [name for name, _ in network_parts(placement(model, X5).nodes)] == ["stem", "blocks.0", "blocks.1", "head"]


def test_groups_put_equal_reasons_with_other_numbers_together() -> None:
    nodes: list[Any] = [("ArgMax", ["x"], ["a"], {"axis": 1}), ("ArgMax", ["y"], ["b"], {"axis": 1})]
    model = graph(nodes, {"x": (1, 100, 16, 16), "y": (1, 200, 16, 16)}, outputs=["a", "b"])
    (group,) = group_nodes(placement(model, X5).nodes)
    assert (group.nodes, group.variants) == (2, 2)


def test_the_picture_is_self_contained_and_escapes_names() -> None:
    model = chain("Relu", "Neg", "Shrink")
    model.graph.node[0].name = '<script>&"'
    drawn = picture(placement(model, X5))
    assert (
        drawn.startswith("<svg")
        and "<script" not in drawn
        and "http" not in drawn.replace("http://www.w3.org/2000/svg", "")
    )
    for word in ("bpu", "cpu", "unk"):
        assert re.search(rf'<rect class="{word}" [^>]*/><text x', drawn)
    onnx_less = json.loads(placement(model, X5).model_dump_json())
    assert onnx_less["nodes"][1]["device"] == "CPU"


def test_a_placement_survives_json() -> None:
    found = placement(chain("Relu", "Neg", "Shrink"), X5)
    assert Placement.model_validate_json(found.model_dump_json()) == found


def test_a_large_constant_is_not_computed() -> None:
    nodes: list[Any] = [("Transpose", ["w"], ["wt"], {"perm": [1, 0]}), ("MatMul", ["x", "wt"], ["y"], {})]
    model = graph(nodes, {"x": (1, 600)}, {"w": np.zeros((500, 600), np.float32)})
    folded, product = read_graph(model)
    assert folded.folded and folded.outputs[0].values is None and product.outputs[0].shape == (1, 500)


def devices(model: onnx.ModelProto, march: March) -> list[str]:
    return [node.device.value for node in placement(model, march).nodes]


def test_measured_placements_take_precedence_over_the_documented_list() -> None:
    model = graph([("Sin", ["x"], ["y"], {}), ("Floor", ["y"], ["z"], {})], {"x": (1, 8, 4, 4)})
    (sine, _) = placement(model, X5).nodes
    assert (sine.device, sine.reason) == (Device.BPU, "the checker puts Sin 4 on the BPU")
    assert sine.confidence == "measured" and "hb_mapper 1.24.3" in sine.source


def test_size_limits_apply_to_measured_placements() -> None:
    def conv(channels: int) -> onnx.ModelProto:
        weight = zeros(8, channels, 1, 1)
        return graph([("Conv", ["x", "w"], ["y"], {})], {"x": (1, channels, 4, 4)}, {"w": weight})

    assert devices(conv(20000), X5) == ["BPU"]
    assert placement(conv(40000), X5).nodes[0].reason == "C*kh*kw of the kernel is 40000, the limit is 32767"


def test_a_view_runs_where_its_neighbours_do() -> None:
    def between(last: str) -> onnx.ModelProto:
        nodes: list[Any] = [
            ("Conv", ["x", "w"], ["a"], {}),
            ("Reshape", ["a", "shape"], ["b"], {}),
            (last, ["b"], ["c"], {"axis": 2} if last == "LpNormalization" else {}),
        ]
        return graph(nodes, {"x": (1, 8, 4, 4)}, {"w": zeros(8, 8, 1, 1), "shape": ints(1, 2, 64)})

    assert devices(between("Sigmoid"), X5) == ["BPU", "BPU", "BPU"]
    assert devices(between("LpNormalization"), X5) == ["BPU", "CPU", "CPU"]


def test_on_x3_a_gelu_is_one_look_up_in_exactly_one_form() -> None:
    def gelu(last: Any, channels: int = 8) -> onnx.ModelProto:
        nodes: list[Any] = [
            ("Conv", ["x", "w"], ["a"], {}),
            ("Div", ["a", "root"], ["b"], {}),
            ("Erf", ["b"], ["c"], {}),
            ("Add", ["c", "one"], ["d"], {}),
            ("Mul", ["a", "d"], ["e"], {}),
            ("Mul", ["e", "half"], ["y"], {}),
            ("Conv", ["y", "w"], ["z"], {}),
        ]
        constants = {"w": zeros(channels, channels, 1, 1), "root": zeros() + 1.41, "one": zeros() + 1, "half": last}
        return graph(nodes, {"x": (1, channels, 4, 4)}, constants)

    assert devices(gelu(zeros() + 0.5), X3) == ["BPU"] * 7
    assert devices(gelu(zeros() + 0.5, 2056), X3)[3:6] == ["BPU"] * 3, "2048 is the limit of a Mul, not of a look-up"
    assert devices(gelu(zeros(1, 8, 1, 1) + 0.5), X3)[3] == "CPU"


def test_on_x3_a_reshape_is_folded_into_a_convolution_but_not_into_a_sum() -> None:
    def read_by(*reader: Any) -> onnx.ModelProto:
        nodes: list[Any] = [
            ("Conv", ["x", "w"], ["a"], {}),
            ("Reshape", ["a", "shape"], ["b"], {}),
            ("Conv", ["x2", "w"], ["c"], {}),
            reader,
            ("Conv", ["d", "w"], ["y"], {}),
        ]
        constants: dict[str, Any] = {"w": zeros(8, 8, 1, 1), "shape": ints(1, 8, 7, 7)}
        return graph(nodes, {"x": (1, 8, 1, 49), "x2": (1, 8, 7, 7)}, constants)

    assert devices(read_by("Conv", ["b", "w"], ["d"], {}), X3)[1] == "BPU"
    assert devices(read_by("Add", ["b", "c"], ["d"], {}), X3)[1] == "CPU"


def test_on_x3_a_slice_runs_where_its_consumers_do() -> None:
    def read_by(reader: str) -> onnx.ModelProto:
        nodes: list[Any] = [
            ("LpNormalization", ["x"], ["a"], {"axis": 2}),
            ("Slice", ["a", "from", "to", "axis"], ["b"], {}),
            (reader, ["b", "w"][: 1 + (reader == "Conv")], ["c"], {} if reader == "Conv" else {"axis": 2}),
        ]
        constants: dict[str, Any] = {"w": zeros(8, 8, 1, 1), "from": ints(0), "to": ints(4), "axis": ints(3)}
        return graph(nodes, {"x": (1, 8, 7, 7)}, constants)

    assert devices(read_by("Conv"), X3) == ["CPU", "BPU", "BPU"]
    assert devices(read_by("LpNormalization"), X3) == ["CPU", "CPU", "CPU"]
