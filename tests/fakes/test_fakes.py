"""The fakes keep the documents: every refusal, the whole way through, every table, every fault; all as subprocesses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.fakes import docs, small
from tests.fakes.cases import TOOLS, Case, cases, prepare
from tests.fakes.fixtures import VendorTools, vendor_tools

__all__ = ["vendor_tools"]
BUILD = ("hb_mapper", "makertbin", "--config", "c.yaml", "--model-type", "onnx")
COMPILE = ("hb_compile", "-c", "c.yaml")


def call(folder: Path, argv: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, cwd=folder, env={**os.environ, **environment}, text=True, capture_output=True, timeout=60, check=False
    )


@pytest.fixture
def folder(tmp_path: Path, vendor_tools: VendorTools) -> Path:
    """Return a folder to run in."""
    made = tmp_path / "work"
    made.mkdir()
    return made


EVERY = [pytest.param(tool, case, id=f"{tool}-{case.name}") for tool in TOOLS for case in cases(tool)]


@pytest.mark.parametrize(("tool", "case"), EVERY)
def test_what_the_documents_refuse_is_refused_in_their_words(
    tool: str, case: Case, folder: Path, vendor_tools: VendorTools
) -> None:
    family_h = tool == "hb_compile"
    good = small.config_h(case.march or "nash-e") if family_h else small.config_b(case.march or "bayes-e")
    small.write(folder, small.edited(good, case.edit), case.made())
    prepare(folder, case.prepare)
    known = {"IMAGE": vendor_tools.image}
    argv = [known.get(a, a.replace("HERE", str(folder))) for a in case.argv]
    argv = argv or (list(COMPILE[1:]) if family_h else list(BUILD[1:]))
    result = call(folder, [tool, *argv], **case.environment)
    said = result.stdout + result.stderr
    for text in case.says:
        assert text.replace("HERE", str(folder)) in said
    assert result.returncode == (case.status or 255)
    assert not [*folder.rglob("*.bin"), *folder.rglob("*.hbm")]
    assert vendor_tools.running() == []


def test_hb_compile_goes_all_the_way(folder: Path) -> None:
    old = {"norm_type": "data_mean_and_scale"}
    small.write(folder, small.edited(small.config_h(), {"input_parameters": old}))
    result = call(folder, COMPILE)
    assert result.returncode == 0, result.stdout
    assert result.stdout.splitlines()[-1].endswith("INFO The hb_compile completes running.")
    assert "WARNING Please note that the parameter norm_type has been deprecated" in result.stdout
    assert re.search(r"INFO \+-+\+", result.stdout)
    assert re.search(r"INFO \| \S*_exp_FROM_QUANTIZED_SOFTMAX +\| Exp +\| -- +\|", result.stdout)
    assert re.search(r"INFO x_uv input +\[1, 4, 4, 2\] +UINT8", result.stdout)
    made = {p.name for p in (folder / "out").iterdir()}
    assert {"m.hbm", "m.json", "m.html", "m_ptq_model.onnx", "m_quantized_model.bc", "hb_compile.log"} <= made
    performance = json.loads((folder / "out" / "m.json").read_text())["summary"]["performance"]
    assert performance["FPS"] > 0 and performance["latency (us)"] > 0


@pytest.mark.parametrize(
    ("argv", "product"),
    [
        (("-m", "m.onnx", "--march", "nash-e"), ".hb_compile/m.hbm"),
        (("--fast-perf", "-m", "m.onnx", "--march", "nash-p", "--core-num", "4"), "model_output/m.hbm"),
        (("-c", "c.yaml", "--skip", "compile"), "out/m_quantized_model.bc"),
    ],
)
def test_hb_compiles_other_modes(argv: tuple[str, ...], product: str, folder: Path) -> None:
    small.write(folder, small.config_h())
    result = call(folder, ["hb_compile", *argv])
    assert result.returncode == 0, result.stdout
    assert (folder / product).exists()
    assert ("--skip" in argv) == (not list(folder.rglob("*.hbm")))


def test_a_bc_is_compiled_again(folder: Path) -> None:
    small.write(folder, small.config_h())
    call(folder, [*COMPILE, "--skip", "compile"])
    result = call(folder, ["hb_compile", "-m", "out/m_quantized_model.bc", "-c", "c.yaml"])
    assert result.returncode == 0, result.stdout
    assert (folder / "out" / "m.hbm").exists()


@pytest.mark.parametrize(("argv", "config"), [(BUILD, small.config_b()), (COMPILE, small.config_h())])
def test_a_crash_ends_with_no_line_of_error(argv: Sequence[str], config: small.Edit, folder: Path) -> None:
    small.write(folder, config)
    result = call(folder, argv, FAKE_HB_CRASH="compile")
    assert result.returncode == -signal.SIGSEGV
    assert "Start to compile" in result.stdout.splitlines()[-1]
    assert "ERROR" not in result.stdout


@pytest.mark.parametrize(("argv", "config"), [(BUILD, small.config_b()), (COMPILE, small.config_h())])
def test_success_is_claimed_with_no_artifact(argv: Sequence[str], config: small.Edit, folder: Path) -> None:
    small.write(folder, config)
    result = call(folder, argv, FAKE_HB_TRUNCATE="1")
    assert result.returncode == 0
    assert not [*folder.rglob("*.bin"), *folder.rglob("*.hbm")]


def test_the_compiler_is_silent_and_then_goes_on(folder: Path) -> None:
    small.write(folder, small.config_b())
    started = time.monotonic()
    assert call(folder, BUILD, FAKE_HB_SILENT="1").returncode == 0
    assert time.monotonic() - started > 1


def test_a_hung_tool_hangs_until_it_is_killed(folder: Path) -> None:
    small.write(folder, small.config_b())
    with subprocess.Popen(
        BUILD, cwd=folder, env={**os.environ, "FAKE_HB_HANG": "calibrate"}, stdout=subprocess.PIPE, text=True
    ) as tool:
        assert tool.stdout is not None
        assert any("Start to calibrate" in line for line in tool.stdout)
        time.sleep(0.3)
        assert tool.poll() is None
        tool.kill()


def in_container(tools: VendorTools, folder: Path, *flags: str) -> list[str]:
    return ["docker", "run", "--rm", "-v", f"{folder}:/work", "-w", "/work", *flags, tools.image, *BUILD]


def until(condition: object, seconds: float = 20) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_container_sees_its_mounts_and_prints_its_own_paths(folder: Path, vendor_tools: VendorTools) -> None:
    small.write(folder, small.config_b())
    me = f"{os.getuid()}:{os.getgid()}"
    argv = in_container(vendor_tools, folder, "--name", "one", "--network", "none", "--user", me, "--memory", "4g")
    result = call(folder, argv)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "log will be stored in /work/" in result.stdout
    assert str(folder) not in result.stdout
    assert (folder / "out" / "model.bin").exists()
    (ended,) = vendor_tools.history()
    assert ended["flags"]["--network"] == ["none"] and ended["exit"] == 0 and ended["user"] == me
    assert vendor_tools.running() == []


def test_a_killed_client_leaves_its_container_running(folder: Path, vendor_tools: VendorTools) -> None:
    small.write(folder, small.config_b())
    client = subprocess.Popen(
        in_container(vendor_tools, folder, "--name", "stays"),
        env={**os.environ, "FAKE_HB_HANG": "compile"},
        stdout=subprocess.DEVNULL,
    )
    until(lambda: vendor_tools.running() == ["stays"])
    client.terminate()
    time.sleep(0.3)
    assert client.poll() is None, "nothing in a container without --init takes a SIGTERM"
    client.kill()
    client.wait()
    assert vendor_tools.running() == ["stays"]
    assert call(folder, ["docker", "ps", "--format", "{{.Names}}"]).stdout == "stays\n"
    taken = call(folder, in_container(vendor_tools, folder, "--name", "stays"))
    assert taken.returncode == 125 and "is already in use by container" in taken.stderr
    assert call(folder, ["docker", "kill", "stays"]).stdout == "stays\n"
    assert vendor_tools.running() == []
    assert [c["exit"] for c in vendor_tools.history()] == [137]


@pytest.mark.parametrize(
    ("fault", "status"),
    [({"FAKE_HB_CRASH": "quantize"}, 139), ({"FAKE_DOCKER_OOM": "1", "FAKE_HB_HANG": "calibrate"}, 137)],
)
def test_a_container_ends_as_its_signal_says(
    fault: dict[str, str], status: int, folder: Path, vendor_tools: VendorTools
) -> None:
    small.write(folder, small.config_b())
    assert call(folder, in_container(vendor_tools, folder), **fault).returncode == status
    assert vendor_tools.running() == []


def test_a_container_without_rm_stays_until_it_is_removed(folder: Path, vendor_tools: VendorTools) -> None:
    argv = ["docker", "run", "--name", "kept", vendor_tools.image, "hb_mapper", "--version"]
    assert call(folder, argv).returncode == 0
    assert "is already in use" in call(folder, argv).stderr
    assert call(folder, ["docker", "rm", "-f", "kept"]).returncode == 0
    assert call(folder, argv).returncode == 0


def test_the_image_tells_its_digest(folder: Path, vendor_tools: VendorTools) -> None:
    argv = ["docker", "image", "inspect", "--format", "{{index .RepoDigests 0}}", vendor_tools.image]
    assert call(folder, argv).stdout.strip().endswith(f"@{vendor_tools.digest}")
    assert vendor_tools.digest in call(folder, ["docker", "images", "--digests"]).stdout
    assert call(folder, ["docker", "run", "--rm", vendor_tools.image_h, "hb_compile", "--version"]).returncode == 0


def test_the_small_network_is_one() -> None:
    model = small.network()
    onnx.checker.check_model(model)
    assert onnx.numpy_helper.to_array(model.graph.initializer[0]).dtype == np.float32


def test_the_page_lists_what_is_tested() -> None:
    page = docs.PAGE.read_text()
    assert docs.written(page) == page, f"run: {Path(sys.executable).name} -m tests.fakes.docs"
