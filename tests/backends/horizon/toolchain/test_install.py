"""Installing the vendor's compiler: which CPython 3.10 it finds, what it refuses, and that a failure leaves nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bpudeploy.backends.horizon.toolchain import install, torch_names
from bpudeploy.backends.horizon.toolchain.installed import folder, installed, lock_digest, lock_text
from bpudeploy.backends.horizon.toolchain.python310 import check_machine, find_python
from bpudeploy.cli.main import main
from bpudeploy.errors import StageError, StoreError, UsageError


def python(path: Path, version: str = "3 10 13", machine: str = "x86_64", pip: str = "exit 1") -> Path:
    """Write a script that imitates a CPython, and whose venv has a pip that runs ``pip``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"""#!/bin/sh
case "$*" in
    "-I -c "*) echo "cpython {version} {machine}" ;;
    "-m venv "*)
        mkdir -p "$3/bin" "$3/lib/python3.10/site-packages"
        printf '#!/bin/sh\\n%s\\n' {json.dumps(pip)} > "$3/bin/python"
        chmod +x "$3/bin/python" ;;
esac
"""
    )
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set an empty home and PATH, and a toolchain folder in it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("PYENV_ROOT", "UV_PYTHON_INSTALL_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("BPUDEPLOY_TOOLCHAIN", str(tmp_path / "toolchain"))
    return tmp_path


def test_every_package_is_pinned_with_its_digest() -> None:
    packages = re.split(r"\n(?=\S)", lock_text().split("\n", 2)[2])
    assert len(packages) > 30
    for package in packages:
        assert re.match(r"[a-z0-9-]+==\S+ \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\\n|\n?$))+", package), package
    assert not [p for p in packages if p.startswith(("torch=", "nvidia"))], "2 of 3 GB, unused"


@pytest.mark.parametrize(
    "where",
    [
        "bin/python3.10",
        "home/.pyenv/versions/3.10.13/bin/python3.10",
        "home/.local/share/uv/python/cpython-3.10.16-linux/bin/python3.10",
    ],
)
def test_a_python_is_found_on_path_in_pyenv_and_in_uv(where: str, place: Path) -> None:
    made = python(place / where)
    assert find_python(None) == (made, "3.10.13")


def test_a_shim_that_does_not_start_is_skipped(place: Path) -> None:
    shim = python(place / "bin" / "python3.10")
    shim.write_text("#!/bin/sh\necho 'pyenv: python3.10: command not found' >&2\nexit 127\n")
    real = python(place / "home/.pyenv/versions/3.10.13/bin/python3.10")
    assert find_python(None) == (real, "3.10.13")


def test_a_missing_python_is_reported_with_how_to_get_it() -> None:
    if Path("/usr/bin/python3.10").exists():
        pytest.skip("this machine has one in /usr/bin")
    with pytest.raises(UsageError, match=r"no CPython 3\.10 was found") as raised:
        find_python(None)
    assert "uv python install 3.10" in (raised.value.hint or "") and "compile.hb_mapper.image" in (
        raised.value.hint or ""
    )


@pytest.mark.parametrize(
    ("version", "machine", "said"),
    [("3 11 7", "x86_64", "is Python 3.11.7"), ("3 10 13", "aarch64", "does not start as a CPython for x86-64")],
)
def test_another_python_is_refused_with_its_version(version: str, machine: str, said: str, place: Path) -> None:
    other = python(place / "other", version, machine)
    with pytest.raises(UsageError, match=said):
        find_python(other)


@pytest.mark.parametrize(
    ("machine", "system", "libc", "said"),
    [
        ("aarch64", "linux", "glibc", "aarch64"),
        ("arm64", "darwin", "", "arm64"),
        ("AMD64", "win32", "", "AMD64"),
        ("x86_64", "linux", "musl", "musl"),
    ],
)
def test_other_machines_are_referred_to_the_container(
    machine: str, system: str, libc: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("platform.libc_ver", lambda: (libc, "1"))
    monkeypatch.setattr("sys.platform", system)
    with pytest.raises(UsageError, match=said) as raised:
        check_machine()
    assert "openexplorer/" in (raised.value.hint or "")


def test_a_failing_pip_is_shown_and_leaves_nothing(place: Path) -> None:
    base = python(
        place / "p310", pip="echo Collecting numpy==1.23.0; echo ERROR: THESE PACKAGES DO NOT MATCH THE HASHES; exit 1"
    )
    notes: list[object] = []
    with pytest.raises(StageError, match="DO NOT MATCH THE HASHES") as raised:
        install.install(base, notes.append)
    assert "package index" in (raised.value.hint or "")
    assert (
        installed() is None
        and not (folder() / "env").exists()
        and any("numpy" in str(n) or "packages" in str(n) for n in notes)
    )


def test_ctrl_c_leaves_nothing_behind(place: Path) -> None:
    base = python(place / "p310", pip="echo Collecting a; touch $BPUDEPLOY_TOOLCHAIN/began; sleep 60")
    argv = [sys.executable, "-m", "bpudeploy", "toolchain", "install", "--python", str(base)]
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (folder() / "began").exists() and time.monotonic() < until:
        time.sleep(0.05)
    with pytest.raises(UsageError, match="another process is installing"):
        install.install(base, lambda event: None)
    child.send_signal(signal.SIGINT)
    assert child.wait(30) == 130
    assert not (folder() / "env").exists() and installed() is None


def test_a_full_disk_is_reported_before_any_download(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = python(place / "p310")
    monkeypatch.setattr("shutil.disk_usage", lambda path: os.terminal_size((1, 1)) and type("U", (), {"free": 10**6})())
    with pytest.raises(StoreError, match=r"0.0 GB free, and the installation needs 1.3 GB"):
        install.install(base, lambda event: None)


def record(place: Path, **changed: object) -> None:
    root = place / "toolchain"
    (root / "env" / "bin").mkdir(parents=True)
    (root / "env" / "bin" / "hb_mapper").touch()
    made = {"lock": "0" * 12, "python": "3.10.13", "versions": {"hb_mapper": "1.24.3"}, "size": 1, "folder": str(root)}
    (root / "installed.json").write_text(json.dumps({**made, **changed}))


def test_show_and_remove(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["toolchain", "show"]) == 0 and "not installed in" in capsys.readouterr().out
    record(place)
    assert main(["toolchain", "show"]) == 0
    out = capsys.readouterr().out
    assert "hb_mapper 1.24.3" in out and "another package list" in out
    found = installed()
    assert found is not None and found.fingerprint == {"hb_mapper": "1.24.3", "toolchain": "0" * 12}
    assert main(["toolchain", "remove", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["removed_bytes"] > 0 and not folder().exists()
    assert main(["toolchain", "remove"]) == 0 and "nothing is installed" in capsys.readouterr().out
    assert main(["toolchain", "show", "--python", "x"]) == 2


@pytest.mark.parametrize("changed", [{"folder": "/elsewhere"}, {"size": "big"}, {"more": 1}])
def test_an_invalid_record_is_no_installation(changed: dict[str, object], place: Path) -> None:
    record(place, **changed)
    assert installed() is None


def test_its_programs_run_in_their_own_environment(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(place, lock=lock_digest())
    monkeypatch.setenv("PYTHONPATH", "/mine")
    found = installed()
    assert found is not None
    environment = found.environment()
    assert environment["PATH"].split(":")[0] == str(place / "toolchain/env/bin") and "PYTHONPATH" not in environment


def test_the_torch_stub_does_not_replace_the_real_torch() -> None:
    import torch.nn

    assert torch_names.nn is not torch.nn and sys.modules["torch.nn"] is torch.nn
