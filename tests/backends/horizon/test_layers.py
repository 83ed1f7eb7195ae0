"""The compiler's table of layers, and the profile that it gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bpudeploy.backends.horizon.findings import CompilerFindings, LatencyEstimate, LogSummary, PlacementRow, Unit
from bpudeploy.backends.horizon.layers import read_profiles
from bpudeploy.conformance.profile import MOVE, Profile
from bpudeploy.results.profile_page import write_profiles

COLUMNS = ["layer", "ops", "original output shape", "aligned output shape", "computing", "load/store", "active"]
ROWS = [
    ["stem-conv", "14,745,600", "[1,4,50,192]", "[1,4,56,192]", "7 us (1.5% of model)", "13 us (3.0%)", "0 ~ 29 us"],
    ["heads", "0", "[3,1,64,197]", "[3,1,64,256]", "16 us (3.7% of model)", "0", "34 ~ 96 us (62)"],
    ["heads_NHWC2NCHW_LayoutConvert_Output0", "0", "[1,4,50,64]", "[1,4,56,64]", "<1 us", "0", "171 ~ 171 us"],
]  # fmt: skip


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    """A profile of a subgraph of three layers and a node on the CPU."""
    summary = {
        "latency (us)": 100.5,
        "loaded bytes per frame": 1000,
        "stored bytes per frame": 24,
        "interval time (ms)": 0.05,
        "interval computing unit utilization": [0.5, 1.0],
        "interval loading bandwidth (megabytes/s)": [4931, 0],
        "interval storing bandwidth (megabytes/s)": [0, 1],
        "layer details": [COLUMNS, *ROWS],
    }
    (tmp_path / "net_subgraph_0.json").write_text(json.dumps({"summary": summary}))
    (tmp_path / "model_quant_info.json").write_text(json.dumps({"stem": {}}))
    subgraphs, layers = read_profiles(tmp_path)
    told = LogSummary(
        nodes=(
            PlacementRow(name="stem", op="HzSQuantizedConv", on=(Unit.BPU,)),
            PlacementRow(name="heads", op="Transpose", on=(Unit.BPU,)),
            PlacementRow(name="sort", op="TopK", on=(Unit.CPU,)),
        ),
        estimates=(LatencyEstimate(subgraph="net_subgraph_0", latency_us=100.5),),
    )
    found = CompilerFindings(
        backend="hb_mapper", march="bayes-e", tool={}, config="", told=told, subgraphs=subgraphs, layers=layers
    )
    return CompilerFindings.model_validate_json(found.model_dump_json()).profile()


def test_each_layer_has_its_times_its_padding_and_its_operator(profile: Profile) -> None:
    stem, heads, added = profile.layers
    assert (stem.op, stem.kind, stem.operations, stem.bound) == ("Conv", "Conv", 14_745_600, "DDR")
    assert (stem.compute_us, stem.transfer_us, stem.start_us, stem.end_us) == (7.0, 13.0, 0.0, 29.0)
    assert stem.padding == pytest.approx(1 - 50 / 56)
    assert (heads.kind, heads.bound, heads.transfer_us) == (MOVE, "compute", 0.0), "a layer that moves nothing in DDR"
    assert (added.op, added.kind, added.compute_us) == ("", MOVE, 0.5), "the compiler prints <1 us"
    assert profile.kinds() == {MOVE: 16.5, "Conv": 13.0} and profile.nodes()["stem"] == 7.0
    assert profile.on_cpu == ("sort",) and profile.total_us == 100.5
    (part,) = profile.subgraphs
    assert (part.loaded_bytes, part.interval_us, part.utilization) == (1000, 50.0, (0.5, 1.0))


def test_the_page_shows_one_profile_or_two(profile: Profile, tmp_path: Path) -> None:
    page = tmp_path / "profile.html"
    write_profiles([("<net>", profile)], page)
    text = page.read_text()
    assert "&lt;net&gt;: 0.101 ms" in text and "stem-conv" in text and "<code>sort</code>" in text
    assert text.count("<svg") == 3 and "not measured" in text
    write_profiles([("one", profile), ("two", profile)], page)
    assert page.read_text().count("<svg") == 5 and "Profile of one and two" in page.read_text()


def test_a_compiler_without_a_table_has_a_latency_and_no_layers(tmp_path: Path) -> None:
    (tmp_path / "net_subgraph_0.json").write_text(json.dumps({"summary": {"latency (us)": 7}}))
    subgraphs, layers = read_profiles(tmp_path)
    assert [one.latency_us for one in subgraphs] == [7.0] and layers == ()
    write_profiles([("net", Profile(total_us=7.0, subgraphs=subgraphs))], tmp_path / "profile.html")
