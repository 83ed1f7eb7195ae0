"""How the two backends run a fake tool: in a container, with faults, up to its end. test_real runs the real one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bpudeploy.errors import StageError
from bpudeploy.events import Note, Progress
from bpudeploy.testing import check_backend
from tests.backends.horizon.conftest import BACKENDS, Compiling, check_reports
from tests.fakes.fixtures import VendorTools


def image_of(name: str, tools: VendorTools) -> str:
    return tools.image if name == "hb_mapper" else tools.image_h


@pytest.mark.usefixtures("vendor_tools")
def test_hb_compile_keeps_the_protocol(tmp_path: Path) -> None:
    backend, march = BACKENDS["hb_compile"]
    check_backend(backend, tmp_path, march)


@pytest.mark.usefixtures("vendor_tools")
@pytest.mark.parametrize("rt", ["nv12", "rgb"])
def test_hb_compile_reports_its_log(rt: str, compiling: Compiling) -> None:
    binary = compiling("hb_compile", input_type_rt=rt)
    assert binary.suffix == ".hbm" and binary.stat().st_size > 0
    found = check_reports(compiling, binary, rt)
    assert (found.backend, found.march, set(found.tool)) == ("hb_compile", "nash-e", {"hb_compile"})
    assert found.told.versions["hb_compile"]


@pytest.mark.parametrize("name", BACKENDS)
def test_a_container_runs_as_this_user_without_a_network(
    name: str, vendor_tools: VendorTools, compiling: Compiling
) -> None:
    compiling(name, image=image_of(name, vendor_tools), memory_gib=7)
    digest = vendor_tools.digest if name == "hb_mapper" else vendor_tools.digest_h
    assert compiling.findings.tool == {name: digest}
    runs = vendor_tools.history()
    assert len(runs) == (2 if name == "hb_mapper" else 1) and vendor_tools.running() == []
    for run in runs:
        assert run["network"] == "none" and run["rm"] and run["user"] == f"{os.getuid()}:{os.getgid()}"
        assert run["memory"] == "7g" and run["environment"]["HOME"] == "/tmp" and run["cwd"] == "/work"
        assert [(m["container"], m["read_only"]) for m in run["mounts"]] == [("/work", False)]
        assert re.fullmatch(r"bpudeploy-hb-(mapper|compile)-[0-9a-f]{12}", run["name"])
        assert run["image"] == digest, "by content: a tag may move"
    assert len({run["name"] for run in runs}) == len(runs)


FAULTS = [
    (
        "hb_mapper",
        {"FAKE_HB_CRASH": "calibrate"},
        {},
        r"checker crashed \(SIGSEGV\) in phase 'calibrate the model'",
        "the tool itself crashed",
    ),
    ("hb_compile", {"FAKE_HB_CRASH": "calibrate"}, {}, r"hb_compile crashed \(SIGSEGV\)", "another `optimize_level`"),
    ("hb_compile", {"FAKE_HB_FAIL": "compile"}, {}, r"ERROR-OCCUR-DURING", "compile.hb_compile.optimize_level"),
    ("hb_compile", {"FAKE_HB_FAIL": "export"}, {}, r"ERROR-OCCUR-DURING hbdk.export", "read the log"),
    ("hb_mapper", {"FAKE_HB_TRUNCATE": "1"}, {}, "succeeded but wrote no model.bin", "read the log"),
    ("hb_compile", {"FAKE_HB_TRUNCATE": "1"}, {}, "succeeded but wrote no model.hbm", "read the log"),
    ("hb_compile", {}, {"optimize_level": "O3"}, "optimize_level 'O3' is invalid", "compile.hb_compile.optimize_level"),
]


@pytest.mark.usefixtures("vendor_tools")
@pytest.mark.parametrize(("name", "fault", "options", "message", "hint"), FAULTS)
def test_a_failure_has_its_fix_and_the_path_of_the_log(
    name: str,
    fault: dict[str, str],
    options: dict[str, object],
    message: str,
    hint: str,
    compiling: Compiling,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key, value in fault.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(StageError, match=message) as raised:
        compiling(name, **options)
    assert hint in (raised.value.hint or "")
    kept = re.search(r"(/\S+)$", raised.value.hint or "")
    assert kept and {"console.log", "config.yaml"} <= {p.name for p in Path(kept[1]).iterdir()}


def test_a_container_that_is_killed_for_memory(
    vendor_tools: VendorTools, compiling: Compiling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_DOCKER_OOM", "1")
    monkeypatch.setenv("FAKE_HB_HANG", "calibrate")
    with pytest.raises(StageError, match="SIGKILL") as raised:
        compiling("hb_mapper", image=vendor_tools.image)
    assert "compile.hb_mapper.memory_gib" in (raised.value.hint or "") and vendor_tools.running() == []


@pytest.mark.parametrize("contained", [False, True])
@pytest.mark.parametrize("name", BACKENDS)
def test_the_time_limit_leaves_nothing_behind(
    name: str, contained: bool, vendor_tools: VendorTools, compiling: Compiling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_HB_HANG", "compile")
    monkeypatch.setattr("bpudeploy.backends.horizon.session.MINUTE_S", 4.0)
    with pytest.raises(StageError, match="was stopped after") as raised:
        compiling(name, minutes=1, **({"image": image_of(name, vendor_tools)} if contained else {}))
    assert f"compile.{name}.minutes" in (raised.value.hint or "")
    assert vendor_tools.running() == [] and not at_work(compiling.folder)
    assert any(isinstance(event, Progress) and event.unit.startswith("minutes") for event in compiling.events)


def at_work(folder: Path) -> list[str]:
    """Return the processes whose working directory is in ``folder``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink().is_relative_to(folder):
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


CHILD = """
import sys
from pathlib import Path
from tests.backends.horizon.conftest import Compiling
from bpudeploy.cli.main import main
try:
    Compiling(Path(sys.argv[1]))(sys.argv[2], **({"image": sys.argv[3]} if sys.argv[3] else {}))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("contained", [False, True])
def test_ctrl_c_and_sigterm_leave_nothing_behind(
    contained: bool, number: signal.Signals, vendor_tools: VendorTools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_HB_HANG", "quantize")
    image = vendor_tools.image if contained else ""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), "hb_mapper", image])
    console, until = tmp_path / "work" / "vendor" / "console.log", time.monotonic() + 60
    while not (console.is_file() and "Start to quantize" in console.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    assert "Start to quantize" in console.read_text()
    assert vendor_tools.running() if contained else at_work(tmp_path)
    child.send_signal(number)
    time.sleep(0.1)
    if child.poll() is None:
        child.send_signal(signal.SIGINT)  # an impatient second Ctrl-C
    assert child.wait(30) != 0
    assert vendor_tools.running() == [] and not at_work(tmp_path)


@pytest.mark.usefixtures("vendor_tools")
def test_a_silent_compiler_has_a_heartbeat(compiling: Compiling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_HB_SILENT", "3.5")
    monkeypatch.setattr("bpudeploy.backends.horizon.session.SILENCE_S", 1.0)
    compiling("hb_compile")
    beats = [e for e in compiling.events if isinstance(e, Note) and "still running" in e.text]
    assert beats and all("compile model" in e.text for e in beats)


@pytest.mark.usefixtures("vendor_tools")
def test_it_also_runs_outside_the_main_thread(compiling: Compiling) -> None:
    made: list[Path] = []
    thread = threading.Thread(target=lambda: made.append(compiling("hb_mapper")))
    thread.start()
    thread.join()
    assert made and made[0].is_file()
