"""Vendor logs: real runs (record.py), published ones, every header variant, and arbitrary text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpudeploy.backends.horizon.failures import explain
from bpudeploy.backends.horizon.findings import CompilerFindings, LatencyEstimate, LogSummary, PlacementRow, Port, Unit
from bpudeploy.backends.horizon.log import COMPILE_CLOSING, MAPPER_CLOSING, Line, LogReader, percent, phase, read_log
from bpudeploy.backends.horizon.quant_info import merged_nodes, quantized_names, with_full_name

LOGS = Path(__file__).parent / "logs"


def parse(text: str) -> LogSummary:
    reader = LogReader()
    for line in text.splitlines():
        reader.feed(line)
    return reader.summary()


def test_a_log_of_makertbin() -> None:
    found = read_log(LOGS / "makertbin.log").summary()
    versions = {"hbdk": "3.49.15", "horizon_nn": "1.1.0", "hb_mapper": "1.24.3", "hbdk_runtime": "3.15.55.0"}
    assert found.versions == versions
    assert (found.calibration_method, found.calibration_images) == ("max-percentile:percentile=0.99995", 31)
    assert [n.name for n in found.nodes][::4] == [
        "HZ_PREPROCESS_FOR_images",
        "/model.10/linear/Gemm_transpose_output_reshape",
    ]
    conv, requantize, reshape = found.nodes[1], found.nodes[3], found.nodes[4]
    assert conv == PlacementRow(
        name="/model.0/conv/Conv",
        op="HzSQuantizedConv",
        on=(Unit.BPU,),
        subgraph=0,
        cosine=0.999772,
        threshold=1.57409,
        dtype="int8",
    )
    assert (requantize.cosine, requantize.threshold) == (None, None)
    assert (reshape.on, reshape.subgraph, reshape.dtype) == ((Unit.CPU,), None, "float")
    assert [(o.name, o.cosine, o.chebyshev) for o in found.outputs] == [
        ("output0", 0.952623, 3.705106),
        ("514", 0.985585, 0.757402),
    ]
    assert found.estimates == (
        LatencyEstimate(subgraph="main_graph_subgraph_0", latency_us=817.5, fps=1223.18, ddr_bytes=2857024),
    )
    assert found.warnings == ("Layer /model.1/Sqrt will be executed on CPU",)
    assert found.closing == MAPPER_CLOSING and found.unread_rows == 0


def test_a_log_of_hb_compile() -> None:
    found = read_log(LOGS / "hb_compile.log").summary()
    assert found.versions == {"hbdk": "4.2.11", "hmct": "2.4.1", "hb_compile": "3.3.22"}
    assert found.calibration_images == 50 and found.closing == COMPILE_CLOSING and found.unread_rows == 0
    first, folded, both = found.nodes
    assert (first.on, first.cosine, first.quantized_cosine, first.dtype) == ((Unit.BPU,), 0.998094, None, "si8")
    assert folded.on == () and folded.name.startswith("...") and folded.dtype is None
    assert both.on == (Unit.VPU, Unit.BPU) and both.quantized_cosine == 0.980591 and both.dtype == "f32,si32"
    (output,) = found.outputs
    assert (output.name, output.worst) == ("output", 0.978965)
    assert found.ports[0] == Port(name="input_y", direction="input", shape=(1, 224, 224, 1), dtype="UINT8")
    assert [p.shape for p in found.ports] == [(1, 224, 224, 1), (1, 112, 112, 2), (1, 10)]


def test_findings_are_summarised_and_survive_json() -> None:
    found = CompilerFindings(
        backend="hb_mapper",
        march="bayes-e",
        tool={"hb_mapper": "1.24.3"},
        config="",
        told=read_log(LOGS / "makertbin.log").summary(),
    )
    devices, similarity, latency, warnings = found.summary()
    assert devices == "4 nodes on the BPU, 1 on the CPU, 1 BPU subgraph"
    assert similarity == "worst output cosine 0.9526 (output0), calibrated by max-percentile:percentile=0.99995"
    assert latency == "compiler's estimate, BPU only: 0.818 ms"
    assert warnings.startswith("1 warnings about a lost precision or device: Layer /model.1/Sqrt")
    assert CompilerFindings.model_validate_json(found.model_dump_json()) == found


REAL = ["makertbin-bernoulli2", "makertbin-bayes", "makertbin-bayes-e", "makertbin-int16"]


@pytest.mark.parametrize("name", [*REAL, "checker-bernoulli2", "checker-bayes", "checker-bayes-e"])
def test_logs_of_real_runs_are_read_completely(name: str) -> None:
    found = read_log(LOGS / f"{name}.log").summary()
    versions = {"hbdk": "3.49.15", "horizon_nn": "1.1.0", "hb_mapper": "1.24.3"}
    assert versions.items() <= found.versions.items() and found.unread_rows == 0
    assert [n.name for n in found.nodes if n.on == (Unit.CPU,)][-1] == "norm2"
    estimates = [n.subgraph for n in found.nodes if n.subgraph is not None]
    assert len(found.estimates) == len(set(estimates)) and all(e.latency_us > 0 for e in found.estimates)
    if name in REAL:
        assert found.closing == MAPPER_CLOSING and found.calibration_images == 4 and found.outputs[0].worst is not None
    assert read_log(LOGS / f"{name}.console").summary().nodes == found.nodes


def test_a_lost_precision_is_kept_and_a_truncated_name_completed() -> None:
    found = read_log(LOGS / "makertbin-int16.log").summary()
    assert found.warnings == (
        "The input0 of Node(name:attention.product, type:MatMul) does not support data type: int16",
    )
    names = quantized_names(LOGS / "makertbin-int16.quant_info.json")
    (cut,) = [n for n in found.nodes if n.name.startswith("...")]
    assert with_full_name(cut, names).name == "attention.softmax_reciprocal_FROM_QUANTIZED_SOFTMAX"
    configured = ("attention.softmax", "attention.product", "stem.relu", "mlp.gelu.erf", "norm.sqrt")
    assert merged_nodes(configured, names) == ("mlp.gelu.erf", "norm.sqrt")
    assert merged_nodes(configured, frozenset()) == (), "nothing is concluded from a file that could not be read"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("makertbin-refused", "User input optimize_level invalid, 'O9' should in list ['O0', 'O1', 'O2', 'O3']"),
        ("makertbin-failed", "Unsupported datatype settings for march bernoulli/bernoulli2: int16"),
    ],
)
def test_the_last_error_of_a_real_log_is_its_reason(name: str, why: str) -> None:
    found = explain(read_log(LOGS / f"{name}.console").errors, [], "hb_mapper")
    assert found is not None and found[0].endswith(why) and found[1]


def test_a_rotated_log_is_read_in_order(tmp_path: Path) -> None:
    lines = (LOGS / "makertbin-bayes-e.log").read_text().splitlines(keepends=True)
    third = len(lines) // 3
    for name, part in ((".2", lines[:third]), (".1", lines[third : 2 * third]), ("", lines[2 * third :])):
        (tmp_path / f"m.log{name}").write_text("".join(part))
    (tmp_path / "m.log.txt").write_text("no part of it")
    assert read_log(tmp_path / "m.log").summary() == read_log(LOGS / "makertbin-bayes-e.log").summary()


VARIANTS = {
    "checker-old": ("ON", "Subgraph", "Type"),
    "checker-new": ("ON", "Subgraph", "Type", "In/Out DataType"),
    "makertbin-old": ("ON", "Subgraph", "Type", "Cosine Similarity", "Threshold"),
    "makertbin-mid": ("ON", "Subgraph", "Type", "Cosine Similarity", "Threshold", "In/Out DataType"),
    "makertbin-1.24": ("ON", "Subgraph", "Type", "Cosine Similarity", "Threshold", "DataType"),
}
H = ("NodeType", "ON", "Threshold", "Calibrated Cosine", "Quantized Cosine", "Output Data Type")
names = st.text("abcXYZ_./0129", min_size=1, max_size=60).map(lambda t: t if len(t) < 50 else "..." + t[-47:])
numbers = st.one_of(st.none(), st.integers(0, 10**8).map(lambda n: n / 10**6))
units = st.sampled_from([(Unit.BPU,), (Unit.CPU,), (Unit.VPU, Unit.BPU), ()])
nodes = st.builds(
    PlacementRow,
    name=names,
    op=st.sampled_from(["Conv", "HzSQuantizedConv", "HzLut", "Reshape"]),
    on=units,
    subgraph=st.one_of(st.none(), st.integers(0, 99)),
    cosine=numbers,
    quantized_cosine=numbers,
    threshold=numbers,
    dtype=st.sampled_from([None, "int8", "int8/int32", "float", "si16", "f32,si32"]),
)


def cell(node: PlacementRow, column: str) -> str:
    value = {
        "ON": "+".join(node.on) or None,
        "Subgraph": None if node.subgraph is None else f"id({node.subgraph})",
        "Type": node.op,
        "NodeType": node.op,
        "Threshold": node.threshold,
        "Cosine Similarity": node.cosine,
        "Calibrated Cosine": node.cosine,
        "Quantized Cosine": node.quantized_cosine,
    }.get(column, node.dtype)
    return "--" if value is None else str(value)


def stored_measurements(node: PlacementRow, columns: tuple[str, ...]) -> PlacementRow:
    """Return the row as a table with these columns contains it."""
    gone = {
        "subgraph": "Subgraph" not in columns,
        "threshold": "Threshold" not in columns,
        "cosine": not {"Cosine Similarity", "Calibrated Cosine"} & set(columns),
        "quantized_cosine": "Quantized Cosine" not in columns,
        "dtype": not any("Data" in c for c in columns),
    }
    return node.model_copy(update={field: None for field, is_gone in gone.items() if is_gone})


@pytest.mark.parametrize("variant", VARIANTS)
@given(rows=st.lists(nodes, max_size=6), level=st.sampled_from(["INFO ", "file: a.py func: a line No: 7 "]))
def test_every_header_of_hb_mapper_is_read_back(variant: str, rows: list[PlacementRow], level: str) -> None:
    columns, stamp = VARIANTS[variant], f"2025-03-05 18:56:09,000 {level}"
    body = [[n.name, *(cell(n, c) for c in columns)] for n in rows]
    widths = [max(map(len, column)) + 2 for column in zip(("Node", *columns), *body, strict=True)]
    lines = ["".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in [["Node", *columns], *body]]
    text = [f"{stamp}The main quantized node information:", "=" * 80, lines[0], "-" * 80, *lines[1:], f"{stamp}Next"]
    found = parse("\n".join(text))
    assert found.nodes == tuple(stored_measurements(n, columns) for n in rows) and found.unread_rows == 0


@given(rows=st.lists(nodes, max_size=6))
def test_the_table_of_hb_compile_is_read_back(rows: list[PlacementRow]) -> None:
    stamp = "2025-07-19 12:49:12,598 file: tool_utils.py func: tool_utils line No: 566 "
    text = [f"{stamp}| Node | {' | '.join(H)} |", f"{stamp}+---+---+"]
    text += [f"{stamp}| {n.name} | {' | '.join(cell(n, c) for c in H)} |" for n in rows]
    assert parse("\n".join([*text, f"{stamp}Next"])).nodes == tuple(stored_measurements(n, H) for n in rows)


@given(st.lists(st.one_of(st.text(max_size=80), st.sampled_from((LOGS / "makertbin.log").read_text().splitlines()))))
def test_no_text_breaks_the_reader(lines: list[str]) -> None:
    parse("\n".join(lines))


def test_megabytes_of_arrays_on_one_line_are_skipped(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("array([" + "1.0, " * 1_000_000 + "])\n" + (LOGS / "makertbin.log").read_text())
    reader = read_log(log)
    assert len(reader.summary().nodes) == 5 and max(map(len, reader.tail)) <= 1000


def test_the_last_table_is_used_and_unknown_rows_are_counted() -> None:
    table = "Node   ON   Subgraph  Type\n----\na      BPU  id(0)     Conv\n"
    found = parse(table + table.replace("a ", "b ") + "what is this\nc      TPU  id(0)     Conv\n")
    assert [n.name for n in found.nodes] == ["b"] and found.unread_rows == 2


@pytest.mark.parametrize(
    ("raw", "level", "text"),
    [
        ("2025-03-05 19:01:17,299 file: a.py func: a line No: 783 End Model Convert", "", "End Model Convert"),
        ("2021-04-21 11:13:08,337 INFO End Model Convert", "INFO", "End Model Convert"),
        ("  2021-04-21 11:13:08,337 ERROR Key 'x' error:", "ERROR", "Key 'x' error:"),
        ("\x1b[31m2021-04-21 11:13:08,337 WARNING odd\x1b[0m\r", "WARNING", "odd"),
        ("2021-04-21 11:13:08,337 INFORMATION is no level", "", "INFORMATION is no level"),
        ("no stamp", "", "no stamp"),
    ],
)
def test_prefixes_are_removed(raw: str, level: str, text: str) -> None:
    line = Line(raw)
    assert (line.level, line.text) == (level, text)


def test_phases_are_read_from_start_lines() -> None:
    stamp = "2025-03-05 19:01:17,299 INFO "
    assert phase(Line(f"{stamp}Start to calibrate the model.")) == "calibrate the model"
    assert phase(Line(f"{stamp}Start to execute hbdk.compile.")) is None
    assert phase(Line("Start to calibrate the model.")) is None


def test_the_progress_bar_is_read() -> None:
    reader = LogReader()
    lines = [
        "[-                        ]   1%",
        "[=========-               ]  38%",
        "[=========================] 100%",
        "50%",
    ]
    assert [percent(reader.feed(line)) for line in lines] == [1, 38, 100, None]
    assert percent(reader.feed("2026-11-30 21:31:00,000 INFO [=== ] 12%")) is None
