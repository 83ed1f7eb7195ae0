"""A night as metrics: read by Prometheus's own parsers of both formats, and by its node exporter where that is here."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as by_openmetrics
from prometheus_client.parser import text_string_to_metric_families as by_text_format

from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import FindingOutcome, Night
from bpudeploy.nightly.openmetrics import PREFIX, to_openmetrics
from bpudeploy.provenance import Provenance
from tests.boards.sshd import free_port
from tests.nightly import made

Key = tuple[str, frozenset[tuple[str, str]]]


def read(text: str) -> dict[Key, float]:
    """Return every series and its value, after both parsers read the same."""
    found: list[dict[Key, float]] = []
    for parser in (by_openmetrics, by_text_format):
        read: dict[Key, float] = {}
        for family in parser(text):
            assert family.type == "gauge" and family.documentation and family.samples
            for sample in family.samples:
                assert sample.timestamp is None
                key = (sample.name.removeprefix(f"{PREFIX}_"), frozenset(sample.labels.items()))
                assert key not in read, "the node exporter refuses a series that is there twice"
                read[key] = sample.value
        found.append(read)
    assert found[0] == found[1]
    return found[0]


def series(night: Night, name: str, **labels: str) -> float:
    return read(to_openmetrics(night))[name, frozenset({"suite": "nightly", **labels}.items())]


@pytest.mark.parametrize("name", made.EVERY)
def test_every_night_is_read_by_both_parsers(name: str) -> None:
    text = to_openmetrics(made.EVERY[name]())
    assert text.endswith("\n# EOF\n") and "\n\n" not in text
    read(text)


def test_the_verdict_the_states_and_the_times() -> None:
    night = made.troubled()
    assert series(night, "exit_code") == 4 and series(night, "regressions") == 3
    assert series(night, "complete") == 1 and series(night, "duration_seconds") == 11520
    assert series(night, "last_run_timestamp_seconds") == made.BEGAN.timestamp() + 11520
    assert series(night, "jobs", state="measured") == 3 and series(night, "jobs", state="no board") == 1
    assert series(night, "quarantined_boards") == 2
    assert series(night, "job_state", job="swin-tiny@rdk-x5", state="build failed") == 1
    assert series(night, "job_state", job="swin-tiny@rdk-x5", state="measured") == 0
    of = {"job": "deit-tiny@rdk-x5", "metric": "p50", "against": "history"}
    told = {outcome: series(night, "verdict", **of, outcome=outcome.value) for outcome in FindingOutcome}
    assert told == {outcome: float(outcome is FindingOutcome.REGRESSION) for outcome in FindingOutcome}
    cut = made.cut_off()
    assert series(cut, "complete") == 0 and series(cut, "exit_code") == 130
    assert series(cut, "last_run_timestamp_seconds") == made.BEGAN.timestamp()


def test_figures_are_in_base_units_with_their_interval_and_how_they_came_to_be() -> None:
    night = made.calm()
    of = {"job": "deit-tiny@rdk-x5", "board": "x5-lab1-003", "provenance": "measured"}
    p50 = {**of, "percentile": "50"}
    assert series(night, "latency_seconds", **p50) == pytest.approx(0.005)
    assert series(night, "latency_low_seconds", **p50) == pytest.approx(0.00496)
    assert series(night, "latency_high_seconds", **p50) == pytest.approx(0.00505)
    assert series(night, "latency_seconds", **of, percentile="99") == pytest.approx(0.007)
    assert series(night, "top1_ratio", **of) == pytest.approx(0.795)
    assert series(night, "binary_size_bytes", **of) == 6.1e6
    assert series(night, "compile_time_seconds", **of) == 91
    simulated = {"job": "vit-small@sim-x5", "board": "this machine", "provenance": Provenance.SIMULATED.value}
    assert series(night, "top1_ratio", **simulated) == pytest.approx(0.795)
    change = {"job": "resnet18@rdk-x5", "metric": "p50", "against": "baseline"}
    three = [series(night, f"change_{end}ratio", **change) for end in ("low_", "", "high_")]
    assert three == pytest.approx([-0.049, -0.04, -0.031])


def test_of_several_nights_the_latest_of_each_suite_is_told() -> None:
    earlier = made.troubled().model_copy(update={"began": "2026-11-26T22:00:00+00:00"})
    other = made.cut_off().model_copy(update={"suite": "other"})
    told = read(to_openmetrics([made.calm(), earlier, other]))
    codes = {dict(labels)["suite"]: value for (name, labels), value in told.items() if name == "exit_code"}
    assert codes == {"nightly": 0, "other": 130}


HOSTILE = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30) | st.sampled_from(
    ['"} 1\nevil 2', "a\\", 'a\\"', "a\\n", "\r\n", "# EOF", "\u2028", "{}", "\x85"]
)


@settings(max_examples=200, deadline=None)
@given(HOSTILE)
def test_no_name_adds_a_series_and_each_comes_back_as_it_is(name: str) -> None:
    told = read(to_openmetrics(made.hostile(name, name)))
    assert len(told) == len(read(to_openmetrics(made.hostile("x", "x"))))
    if name.isprintable():
        assert {dict(labels)["suite"] for _, labels in told} == {name}


def test_what_is_no_number_is_left_out() -> None:
    night = made.night([made.job(figures={Metric.P50: float("nan"), Metric.SIZE: 6.0}, p50_ms=None)])
    assert "latency" not in to_openmetrics(night)
    read(to_openmetrics(night))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("name", made.EVERY)
def test_promtool_finds_nothing_to_say(name: str) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=to_openmetrics(made.EVERY[name]()),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


EXPORTER = shutil.which("prometheus-node-exporter") or shutil.which("node_exporter")


@pytest.mark.skipif(EXPORTER is None, reason="Prometheus's node exporter is not installed")
def test_the_node_exporter_serves_the_files_of_two_suites(tmp_path: Path) -> None:
    assert EXPORTER is not None
    other = made.troubled().model_copy(update={"suite": "other"})
    for night in (made.calm(), other, made.hostile('a"\\\n', "x")):
        (tmp_path / f"{len(list(tmp_path.iterdir()))}.prom").write_text(to_openmetrics(night), encoding="utf-8")
    port = free_port()
    with subprocess.Popen(
        [
            EXPORTER,
            "--collector.disable-defaults",
            "--collector.textfile",
            f"--collector.textfile.directory={tmp_path}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as exporter:
        try:
            served = scraped(f"http://127.0.0.1:{port}/metrics")
        finally:
            exporter.terminate()
    assert "\nnode_textfile_scrape_error 0\n" in served
    assert 'bpudeploy_nightly_exit_code{suite="nightly"} 0' in served
    assert 'bpudeploy_nightly_exit_code{suite="other"} 4' in served
    assert served.count("\nbpudeploy_nightly_exit_code{") == 3


def scraped(url: str) -> str:
    for _ in range(100):
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the exporter does not answer")
