"""The formats of hrut_somstatus."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bpudeploy.agent.somstatus import parse
from tests.fakes.board.fixtures import Board

HERE = Path(__file__).parent / "fixtures"


def text(name: str) -> str:
    return (HERE / f"somstatus_{name}.txt").read_text()


def test_x3_has_khz_and_hz() -> None:
    found = parse(text("x3"))
    assert found["temperatures_c"] == {"CPU": 61.3}
    assert found["cpu_khz"]["cpu3"] == {"cur": 240000, "max": 1800000}
    assert found["bpu_hz"] == {f"bpu{i}": {"cur": 1000000000, "max": 1000000000} for i in (0, 1)}
    assert found["bpu_busy"] == {"bpu0": 0, "bpu1": 0}


def test_newer_x5_images_have_mhz_and_a_stray_word() -> None:
    found = parse(text("x5"))
    assert found["temperatures_c"] == {"DDR": 59.5, "BPU": 58.5, "CPU": 58.5}
    assert found["cpu_khz"]["cpu1"] == {"cur": 1200000, "max": 1500000} and len(found["cpu_khz"]) == 8
    assert found["bpu_hz"] == {"bpu0": {"cur": 1000000000, "max": 1000000000}}


def test_the_s_series_has_only_utilization_for_the_bpu() -> None:
    found = parse(text("s100"))
    assert found["cpu_khz"] == {f"policy{i}": {"cur": 1500000, "max": 1500000} for i in (0, 4)}
    assert found["bpu_hz"] == {} and found["bpu_busy"] == {"bpu0": 98}
    assert found["temperatures_c"]["pvt_bpu_pvtc1_t1"] == 57.047 and "VDD_CPU" not in found["temperatures_c"]
    assert len(parse(text("s600"))["cpu_khz"]) == 5


def test_the_last_of_several_reports_is_used() -> None:
    later = text("x3").replace("61.3", "70.0").replace("=1=", "=2=")
    assert parse(text("x3") + later)["temperatures_c"] == {"CPU": 70.0}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("61.3 (C)", "61.3"),
        ("240000  1800000", "240000"),
        ("min       cur     max", "min cur most"),
        ("      0\n", " 101\n"),
    ],
)
def test_malformed_lines_are_quoted(old: str, new: str) -> None:
    with pytest.raises(ValueError, match=r"hrut_somstatus, line \d+: "):
        parse(text("x3").replace(old, new))


@pytest.mark.parametrize("nothing", ["", "hrut_somstatus: not found\n", "voltage-->\n"])
def test_output_without_a_report_is_an_error(nothing: str) -> None:
    with pytest.raises(ValueError, match="no report"):
        parse(nothing)


@pytest.mark.parametrize(("name", "cpus"), [("x3", 2), ("x5", 2), ("s100", 2)])
def test_the_output_of_the_fake_is_parsed(name: str, cpus: int, fake_board: Callable[..., Board]) -> None:
    board = fake_board(name)
    ran = subprocess.run([board.bin / "hrut_somstatus", "-n", "1"], capture_output=True, text=True, check=True)
    found = parse(ran.stdout)
    assert len(found["cpu_khz"]) == cpus and found["bpu_busy"] and found["temperatures_c"]
