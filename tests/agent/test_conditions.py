"""Conditions: sensors, missing sensors, and other busy processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.agent.host import DEVFREQ, POLICY, Agent, FakeBoard, Line, round_of

BURN = "import time; end = time.monotonic() + {}\nwhile time.monotonic() < end: pass"


def conditions(agent: Agent) -> Line:
    line, _ = agent.done("conditions")
    assert line["is"] == "conditions"
    return line


def test_conditions_of_a_complete_board(board: FakeBoard) -> None:
    with board.start() as agent:
        (hello,) = agent.receive()
        line = conditions(agent)
    assert hello["agent"] == 2 and hello["boot"] == "this-boot" and hello["healed"] == []
    assert 0 < hello["t"] <= hello["uptime_s"] + 1 and hello["t"] < line["t"] < hello["t"] + 60
    assert hello["facts"]["python"].startswith("3.") and hello["facts"]["cores"] == len(os.sched_getaffinity(0))
    assert set(hello["facts"]) == {"hostname", "machine", "cpu", "cores", "memory_mb", "os", "python", "board_id"}
    assert line["temperatures_c"] == {"pvt_cmn": 38.565, "hwmon0/temp1_input": 41.0, "BPU": -0.5}
    clock = {"cur": 1125000, "max": 1500000}
    assert line["cpu_khz"] == {"policy0": clock, "policy4": clock}
    assert line["bpu_hz"] == {"bpu0": {"cur": 500000000, "max": 1000000000}}
    assert line["bpu_busy"] == {"bpu0": 17}
    names = {"cpu policy0": "schedutil", "cpu policy4": "ondemand", "bpu bpu0": "simple_ondemand"}
    assert line["governors"] == names
    assert line["load_1min"] >= 0 and line["others_cores"] is None


def test_missing_sensors_are_left_out(board: FakeBoard) -> None:
    board.write("/sys/class/hwmon/hwmon0/temp1_input", "")  # switched off
    board.file("/sys/class/hwmon/hwmon0/temp2_input").unlink()
    board.file("/sys/class/hwmon/hwmon0/temp2_input").mkdir()
    board.write("/sys/class/thermal/thermal_zone1/type", "pvt_cmn")  # a name that another has
    board.write("/sys/class/thermal/thermal_zone1/temp", "40000")
    board.file(f"{DEVFREQ}/cur_freq").unlink()
    board.write("/sys/devices/system/bpu/bpu0/ratio", "no idea")
    board.file(f"{POLICY}0/cpuinfo_max_freq").unlink()
    board.write(f"{POLICY}0/scaling_max_freq", "1200000")
    board.file(f"{POLICY}4/scaling_governor").unlink()
    with board.ready() as agent:
        line = conditions(agent)
    assert line["temperatures_c"] == {"pvt_cmn": 38.565, "pvt_cmn thermal_zone1/temp": 40.0}
    assert line["bpu_hz"] == {} and line["bpu_busy"] == {}
    assert line["cpu_khz"]["policy0"] == {"cur": 1125000, "max": 1200000}
    assert set(line["governors"]) == {"cpu policy0", "bpu bpu0"}


def test_other_busy_processes_are_counted(board: FakeBoard) -> None:
    with board.ready() as agent:
        conditions(agent)
        with subprocess.Popen([sys.executable, "-c", BURN.format(1.6)]):
            time.sleep(1.5)
            assert 0.4 < conditions(agent)["others_cores"] < os.cpu_count() + 0.5  # type: ignore[operator]
        assert conditions(agent)["others_cores"] is None, "too soon for ticks to tell"


def busy() -> float:
    """Return the total busy seconds of all cores."""
    ticks = [int(tick) for tick in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    return sum(ticks[i] for i in (0, 1, 2, 5, 6, 7)) / os.sysconf("SC_CLK_TCK")


def test_the_agents_own_cpu_time_is_not_counted(board: FakeBoard, model: Path, samples: Path) -> None:
    with board.ready() as agent:
        agent.load(model, samples)
        conditions(agent)
        before, began = busy(), time.monotonic()
        lines = agent.done("round", **round_of(min_seconds=1.5))
        all_cores = (busy() - before) / (time.monotonic() - began)
        others = [line["others_cores"] for line in lines if line.get("others_cores") is not None]
    assert others and all_cores - sum(others) / len(others) > 0.4, (all_cores, others)


def test_the_cpu_time_of_child_processes_is_not_counted(board: FakeBoard, model: Path, samples: Path) -> None:
    """A runtime that starts a busy child process and then fails to import."""
    modules = board.folder / "modules"
    (modules / "hobot_dnn").mkdir(parents=True)
    burn = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN.format(1.5)!r}])\n"
    (modules / "hobot_dnn" / "__init__.py").write_text(burn + "raise ImportError('none')\n")
    with board.ready(environment={"PYTHONPATH": str(modules)}) as agent:
        conditions(agent)
        before, began = busy(), time.monotonic()
        (failed,) = agent.load(model, samples, runtime="hobot_dnn", threads=0)
        others = conditions(agent)["others_cores"]
        all_cores = (busy() - before) / (time.monotonic() - began)
    assert "no hobot_dnn: none" in failed["why"]
    assert all_cores - others > 0.4, (all_cores, others)
