"""keys and rollback, as typed: a key is made, a board is told of it, and only then does it take a release."""

from __future__ import annotations

import getpass
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpudeploy.cli.main import main
from bpudeploy.signing import NAMESPACE, PRINCIPAL, load_key
from bpudeploy.testing import embedded_board

TARGET = """\
name: here
description: this machine, reached over SSH
march: cpu
backend: ort
board: {{connection: ssh, root: {root}, python: {python}{more}}}
precision: {{conv: [int8, int16], matmul: [int8, int16], elsewhere: float32, rounding: half_even,
  int16_cost: {{products: 2.0, elementwise: 2.0}}}}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def ssh_board(home: Path, tmp_path: Path) -> Iterator[str]:
    """A board that ~/.ssh/config names ``desk``; returns that name."""
    place = tmp_path / "desk"
    with embedded_board(place) as board:
        port = board._connection.get_extra_info("peername")[1]
        ssh = home / ".ssh"
        ssh.mkdir(mode=0o700)
        host_key = (place / "host_key.pub").read_text()
        (ssh / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
        (ssh / "config").write_text(
            f"Host desk\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
            f"  IdentityFile {place / 'client_key'}\n"
        )
        yield "desk"


def target(tmp_path: Path, more: str = "") -> str:
    path = tmp_path / "here.yaml"
    path.write_text(TARGET.format(root=tmp_path / "on the board", python=sys.executable, more=more))
    return str(path)


def test_a_key_is_made_once_for_its_owner_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "show"]) == 2
    assert "bpudeploy keys new" in capsys.readouterr().err
    assert main(["keys", "new", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    path = home / ".config" / "bpudeploy" / "signing_key"
    assert made["file"] == str(path) and path.stat().st_mode & 0o777 == 0o600
    listed = subprocess.run(["ssh-keygen", "-l", "-f", str(path)], capture_output=True, text=True, check=True).stdout
    assert made["fingerprint"] in listed and "ED25519" in listed
    assert main(["keys", "show"]) == 0
    shown = capsys.readouterr().out
    assert made["public"] in shown and "PRIVATE" not in shown
    before = path.read_bytes()
    assert main(["keys", "new"]) == 2
    assert "boards that trust the old key would refuse" in capsys.readouterr().err and path.read_bytes() == before
    path.chmod(0o640)
    assert main(["keys", "show"]) == 2
    assert f"chmod 600 {path}" in capsys.readouterr().err


def test_openssh_accepts_what_it_signs_and_nothing_else(home: Path, tmp_path: Path) -> None:
    assert main(["keys", "new", "--key", str(tmp_path / "k")]) == 0
    key = load_key(tmp_path / "k")
    (tmp_path / "sig").write_text(key.sign("words\n"))
    (tmp_path / "allowed").write_text(key.public.allowed_signer + "\n")

    def verify(words: str, namespace: str) -> int:
        command = ["ssh-keygen", "-Y", "verify", "-f", str(tmp_path / "allowed"), "-I", PRINCIPAL, "-n", namespace]
        command += ["-s", str(tmp_path / "sig")]
        return subprocess.run(command, input=words, text=True, capture_output=True).returncode

    assert verify("words\n", NAMESPACE) == 0 and key.sign("words\n") == key.sign("words\n")
    assert verify("word\n", NAMESPACE) != 0 and verify("words\n", "file") != 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("not a key", "is not a usable key"),
        ("rsa", "is ssh-rsa, not ssh-ed25519"),
        ("locked", "is not a usable key"),
    ],
)
def test_a_key_that_cannot_sign_is_named(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, said: str
) -> None:
    import asyncssh

    path = tmp_path / "k"
    if content == "rsa":
        path.write_bytes(asyncssh.generate_private_key("ssh-rsa").export_private_key())
    elif content == "locked":
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(path)], check=True)
    else:
        path.write_text(content)
    path.chmod(0o600)
    assert main(["keys", "show", "--key", str(path)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["keys", "install", "--board", "desk"], "needs --target"),
        (["keys", "install", "--target", "cpu-ssh"], "needs the address of a board"),
        (["keys", "install", "--target", "local"], "starts its own board, with its own key"),
        (["keys", "new", "--board", "desk"], "are for `keys install`"),
        (["rollback", "--board", "desk"], "needs --target"),
        (["rollback", "--target", "nonesuch"], "nonesuch"),
    ],
)
def test_what_is_missing_is_said(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    if argv[:2] == ["keys", "install"]:
        assert main(["keys", "new"]) == 0
    assert main(argv) == 2
    assert said in capsys.readouterr().err


def test_from_no_key_to_a_rollback(
    tiny: Path, ssh_board: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = target(tmp_path)
    run = ["run", str(tiny), "--set", f"target={kind}", "--board", ssh_board]
    assert main(run) == 2
    assert "no signing key can be read" in capsys.readouterr().err
    assert main(["keys", "new"]) == 0
    assert main(run) == 5
    said = capsys.readouterr().err
    assert "trusts no signing key yet" in said and "keys install" in said
    on_it = ["--board", ssh_board, "--target", kind]
    assert main(["rollback", *on_it]) == 5
    assert "trusts no signing key yet" in capsys.readouterr().err
    assert main(["keys", "install", *on_it]) == 0
    assert "now trusts SHA256:" in capsys.readouterr().out
    assert main(["keys", "install", *on_it, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["new"] is False
    assert main(run) == 0 and main([*run, "--set", "name=other"]) == 0
    assert "signed by a key that the board trusts" in capsys.readouterr().out
    assert main(["rollback", *on_it, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "tiny"
    assert main(["keys", "new", "--key", str(tmp_path / "second")]) == 0
    assert main([*run, "--key", str(tmp_path / "second"), "--set", "name=third"]) == 5
    assert "this release is not signed by a key that it trusts" in capsys.readouterr().err
    assert main(["keys", "install", "--key", str(tmp_path / "second"), *on_it]) == 5
    assert "trusts another key already" in capsys.readouterr().err
    unsigned = target(tmp_path, ", signed: false")
    assert main(["run", str(tiny), "--set", f"target={unsigned}", "--board", ssh_board, "--set", "name=bare"]) == 0
    assert "NOT signed: the target says board.signed: false" in capsys.readouterr().out
