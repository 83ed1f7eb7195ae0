"""Facts and doctor: the script on a real sshd with fake vendor files, and its strict parser."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpudeploy import Target
from bpudeploy.boards.address import Address
from bpudeploy.boards.doctor import BoardFinding, Severity, doctor, examine
from bpudeploy.boards.facts import Facts, parse, read_facts
from bpudeploy.boards.ssh import open_ssh
from bpudeploy.errors import BoardError
from bpudeploy.spec.load import load_target
from bpudeploy.spec.target import BoardSpec
from tests.boards.fake_files import write_fake_files
from tests.boards.sshd import Home, Server, needs_sshd, serve


@pytest.fixture
def server(server: Server, home: Home) -> Server:
    home.know(server)
    return server


def facts(address: str, under: str = "", root: str = "/userdata/bpudeploy", python: str = "python3") -> Facts:
    with open_ssh(Address.parse(address), name=address, python=python, root=PurePosixPath(root)) as board:
        return read_facts(board, under=under)


def target(name: str) -> Target:
    return load_target(name, Path())[0]


@needs_sshd
def test_an_x5(server: Server, tmp_path: Path) -> None:
    told = facts(server.address, write_fake_files(tmp_path / "x5", "x5"), root=str(tmp_path / "no" / "such"))
    assert (told.chip, told.model, told.soc_uid) == ("x5", "D-Robotics RDK X5 V1.0", "2106271200a1b2c3")
    assert (told.system, told.os, told.memory_mb) == ("3.2.1", "Ubuntu 22.04.4 LTS", 8340)
    assert told.runtime == str(tmp_path / "x5/usr/hobot/bin/hrt_model_exec")
    assert told.runtime_version == "1.24.5"
    assert told.libdnn == (str(tmp_path / "x5/usr/hobot/lib/libdnn.so"),)
    assert told.temperatures_c == {"DDR": 52.1, "hwmon0/temp3_input": 50.4}
    assert told.governors == {"cpu policy0": "schedutil", "bpu 3a000000.bpu": "performance"}
    assert told.root == str(tmp_path) and told.writable and told.free_mb > 0
    assert abs(told.clock_ahead_s) < 2 and told.python and "sha256sum" in told.tools


@needs_sshd
def test_an_s100_and_an_old_x3(server: Server, tmp_path: Path) -> None:
    told = facts(server.address, write_fake_files(tmp_path / "s100", "s100"))
    assert (told.chip, told.model) == ("s100", "D-Robotics RDK S100 MCB V1p0 (Board Id = 0x6A84)")
    assert told.soc_uid == "0123456789abcdef0123456789abcdef" and told.runtime is None and told.libdnn == ()
    assert told.temperatures_c == {"pvt_cmn_pvtc1_t1": 38.565, "pvt_bpu_pvtc1_t1": 91.0}
    told = facts(server.address, write_fake_files(tmp_path / "x3", "x3"))
    assert told.chip is None and told.temperatures_c == {"thermal_zone0": 61.3} and told.governors == {}


ODD = ["it's $HOME; touch owned", "-rf", 'a"b', "new\nline", "ü €", "`id`", "a b/c"]


@needs_sshd
@pytest.mark.parametrize("name", ODD)
def test_an_odd_folder_is_only_a_folder(server: Server, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir(parents=True)
    if "\n" in name:
        with pytest.raises(BoardError, match="facts: cannot parse its facts: place is"):
            facts(server.address, root=str(folder))
    else:
        assert facts(server.address, root=str(folder)).root == str(folder)
    assert not (server.board / "owned").exists()


@needs_sshd
def test_a_board_without_python(server: Server) -> None:
    told = facts(server.address, python="/no/python")
    assert told.python is None and told.packages == {}


@needs_sshd
def test_facts_are_one_command(server: Server, tmp_path: Path) -> None:
    facts(server.address)
    log = (server.host_key.parent / "log").read_text()
    assert log.count("Accepted publickey") == 1


# --- the parser


def answer(under: str, root: str = "/") -> str:
    script = (Path(__file__).parents[2] / "bpudeploy/boards/facts.sh").read_text()
    argv = ["sh", "-c", script, "facts", root, "python3", under]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> str:
    return answer(write_fake_files(tmp_path_factory.mktemp("x5"), "x5"))


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_the_script_is_plain_sh(shell: str) -> None:
    script = Path(__file__).parents[2] / "bpudeploy/boards/facts.sh"
    which = subprocess.run(["which", shell], check=False, capture_output=True, text=True).stdout.strip()
    if not which:
        pytest.skip(f"no {shell} here")
    argv = [which, *(["sh"] if shell == "busybox" else []), "-c", script.read_text(), "facts", "/", "python3", ""]
    out = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60)
    assert parse(out.stdout, time.time()).hostname == os.uname().nodename


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_output_is_refused(told: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(told) - 1))
    damaged = told[:at] + data.draw(st.sampled_from(["", "\n", "@", "|", "noise\n"])) + told[at + 1 :]
    cut = data.draw(st.booleans())
    try:
        parse(told[:at] if cut else damaged, 0.0)
    except ValueError:
        return
    assert not cut, "an answer that ends early is none"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("@user\n", "Welcome!\n@user\n", "unexpected line 'Welcome!'"),
        ("@end\n", "", "output ends after governors"),
        ("@clock\n|", "@clock\n|x", "invalid literal"),
        ("@writable\n|", "@writable\n|perhaps", "writable is"),
        ("@space\n|", "@space\n|only this\n@python\n@x\n|", "output ends after"),
    ],
)
def test_malformed_sections_are_named(told: str, old: str, new: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(told.replace(old, new, 1), 0.0)


# --- doctor


def of(findings: list[BoardFinding], about: str) -> BoardFinding:
    return next(f for f in findings if f.about == about)


@needs_sshd
def test_a_good_board(server: Server, tmp_path: Path) -> None:
    under = write_fake_files(tmp_path / "x5", "x5")
    with_numpy = target("rdk-x5").model_copy(update={"board": BoardSpec(root="bpudeploy", python=sys.executable)})
    found = doctor(Address.parse(server.address), with_numpy, under=under)
    assert [f.about for f in found if f.state is Severity.ERROR] == []
    assert of(found, "chip").found.endswith("bayes-e") and "1.24.5" in of(found, "BPU runtime").found
    assert of(found, "governor").state is Severity.WARNING and of(found, "governor").repair
    assert all(f.repair for f in found if f.state is not Severity.OK)


@needs_sshd
def test_a_chip_that_is_not_the_target_s_is_an_error(server: Server, tmp_path: Path) -> None:
    under = write_fake_files(tmp_path / "x5", "x5")
    found = of(doctor(Address.parse(server.address), target("rdk-s100"), under=under), "chip")
    assert found.state is Severity.ERROR and "is bayes-e; rdk-s100 is nash-e" in found.found and found.repair


@needs_sshd
def test_a_missing_runtime_and_heat_and_an_unknown_chip(server: Server, tmp_path: Path) -> None:
    found = doctor(Address.parse(server.address), target("rdk-s100"), under=write_fake_files(tmp_path / "s", "s100"))
    assert of(found, "BPU runtime").state is Severity.ERROR and "install.sh" in str(of(found, "BPU runtime").repair)
    assert of(found, "temperature").found == "91.0 °C (pvt_bpu_pvtc1_t1)"
    assert of(found, "temperature").state is Severity.WARNING
    old = replace(facts(server.address, write_fake_files(tmp_path / "x", "x3")), machine="aarch64")
    found = examine(old, target("rdk-x3"))
    assert of(found, "chip").state is Severity.WARNING and "no other march" in str(of(found, "chip").repair)


@needs_sshd
def test_a_machine_without_a_bpu(server: Server) -> None:
    if os.uname().machine != "aarch64":
        assert of(doctor(Address.parse(server.address), target("rdk-x5")), "chip").state is Severity.ERROR


@needs_sshd
def test_a_clock_that_is_years_off(home: Home, tmp_path: Path) -> None:
    shim = tmp_path / "shim"
    shim.mkdir()
    (shim / "date").write_text("#!/bin/sh\necho 86400\n")
    (shim / "date").chmod(0o755)
    with serve(tmp_path / "one", home, path=shim) as server:
        home.know(server)
        found = of(doctor(Address.parse(server.address), None), "clock")
    assert found.state is Severity.WARNING and "years behind" in found.found and "set-ntp" in str(found.repair)


@needs_sshd
def test_missing_sftp_and_connection_failures_are_findings(home: Home, tmp_path: Path) -> None:
    with serve(tmp_path / "one", home, sftp=False) as server:
        (unknown,) = doctor(Address.parse(server.address), None)
        assert (unknown.about, unknown.state) == ("connect", Severity.ERROR) and "boards trust" in str(unknown.repair)
        home.know(server)
        assert of(doctor(Address.parse(server.address), None), "sftp").found.startswith("not available")
    assert doctor(Address.parse(server.address), None)[0].about == "connect"


def test_the_requirements_of_push_are_checked(told: str) -> None:
    good = parse(told, time.time())
    found = examine(replace(good, tools=("mv",), writable=False, free_mb=10), None)
    assert "missing: sha256sum, ln" in of(found, "tools").found and of(found, "tools").state is Severity.ERROR
    assert of(found, "folder").state is Severity.ERROR and f"chown {good.user}" in str(of(found, "folder").repair)
    assert of(found, "space").state is Severity.ERROR
    assert of(examine(replace(good, free_mb=400), None), "space").state is Severity.WARNING
    unsigned = target("cpu-ssh").model_copy(update={"board": BoardSpec(signed=False)})
    alone = replace(good, tools=tuple(t for t in good.tools if t != "ssh-keygen"))
    assert of(examine(alone, target("cpu-ssh")), "signing").state is Severity.ERROR
    assert "signing" not in [f.about for f in examine(alone, unsigned)]
    bare = examine(replace(good, packages={"numpy": "2.0"}), target("cpu-ssh"))
    assert of(bare, "python").state is Severity.ERROR and "pip install onnxruntime" in str(of(bare, "python").repair)


@pytest.mark.parametrize("name", [None, "rdk-x5", "rdk-s100", "cpu-ssh"])
def test_every_target_needs_python_3_8(told: str, name: str | None) -> None:
    board, wanted = parse(told, time.time()), target(name) if name else None
    good = replace(board, python="3.8.10", packages={"numpy": "1.24.4", "onnxruntime": "1.17.0"})
    assert of(examine(good, wanted), "python").state is Severity.OK
    for python, says in ((None, "'python3' does not start"), ("3.7.3", "'python3' is Python 3.7.3")):
        found = of(examine(replace(good, python=python), wanted), "python")
        assert found.state is Severity.ERROR and found.found == f"{says}; push and benchmark need 3.8 or newer"
        assert "install Python 3.8" in str(found.repair) and "board.python" in str(found.repair)
    bare = of(examine(replace(good, packages={}), wanted), "python")
    assert (bare.state is Severity.OK) is (name is None)
    assert name is None or "pip install numpy" in str(bare.repair)
