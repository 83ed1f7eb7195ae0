"""`boards shell` and the other commands, with pipes and with a terminal, against a real sshd."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bpudeploy.cli.main import main
from bpudeploy.errors import ExitCode
from tests.boards.sshd import Home, Server, keygen, needs_sshd, public

pytestmark = needs_sshd


@pytest.fixture
def home(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return home


@pytest.fixture
def server(server: Server, home: Home) -> Server:
    home.know(server)
    return server


def boards(*argv: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "bpudeploy", "boards", *argv]
    return subprocess.run(command, check=False, capture_output=True, input=given, timeout=60)


def test_a_command_uses_the_standard_streams_and_returns_its_status(server: Server) -> None:
    done = boards("shell", server.address, "--", "sh", "-c", "cat; echo err >&2; exit 7", given=b"a\0b\xff")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"a\0b\xff", b"err\n")


def test_devnull_as_input(server: Server) -> None:
    command = [sys.executable, "-m", "bpudeploy", "boards", "shell", server.address, "--", "cat"]
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), "epoll takes no /dev/null"


def test_a_megabyte_in_and_out(server: Server, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(data := os.urandom(1_000_000))
    with (tmp_path / "in").open("rb") as given, (tmp_path / "out").open("wb") as out:
        command = [sys.executable, "-m", "bpudeploy", "boards", "shell", server.address, "--", "cat"]
        subprocess.run(command, check=True, stdin=given, stdout=out, timeout=60)
    assert (tmp_path / "out").read_bytes() == data


def test_a_command_is_not_interpreted_by_a_shell(server: Server) -> None:
    done = boards("shell", server.address, "--", "printf", "%s|", "$HOME", "; exit 9", "-n", "a b")
    assert (done.returncode, done.stdout) == (0, b"$HOME|; exit 9|-n|a b|")


def test_a_killed_command_has_the_shell_s_status_for_it(server: Server) -> None:
    assert boards("shell", server.address, "--", "sh", "-c", "kill -9 $$").returncode == 128 + 9


def test_an_account_that_prints_can_still_be_opened(server: Server) -> None:
    (server.board / ".bashrc").write_text("echo Welcome\n")
    assert boards("shell", server.address, "--", "true").returncode == 0
    assert boards("facts", server.address).returncode == ExitCode.BOARD


class Terminal:
    """A process with its own terminal."""

    def __init__(self, *argv: str) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execv(sys.executable, [sys.executable, "-m", "bpudeploy", "boards", *argv])
        self.text = ""

    def until(self, words: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while words not in self.text:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{words!r} did not come: {self.text!r}"
            try:
                self.text += os.read(self.master, 4096).decode(errors="replace")
            except OSError:
                pytest.fail(f"{words!r} did not come: {self.text!r}")

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        with contextlib.suppress(OSError):
            while chunk := os.read(self.master, 4096):
                self.text += chunk.decode(errors="replace")
        _, status = os.waitpid(self.pid, 0)
        os.close(self.master)
        return os.waitstatus_to_exitcode(status)


def test_a_shell_on_a_terminal(server: Server) -> None:
    terminal = Terminal("shell", server.address)
    terminal.type("stty size; test -t 0 && echo is-a-$((1+1))-terminal; exit 5\n")
    terminal.until("is-a-2-terminal")
    assert terminal.end() == 5


def test_ctrl_c_is_sent_to_the_board(server: Server) -> None:
    terminal = Terminal("shell", server.address)
    # One process says it and sleeps: between two commands a shell has no one to give a Ctrl-C to, and drops it.
    terminal.type("sh -c \"echo re''ady; exec sleep 100\"\n")
    terminal.until("ready\r\n")
    terminal.type("\x03")
    terminal.type("echo still-$((1+1))-here; exit 0\n")
    terminal.until("still-2-here")
    assert terminal.end() == 0


# --- trust, as a person and as a machine


def fingerprint(key: Path) -> str:
    out = subprocess.run(["ssh-keygen", "-lf", f"{key}.pub"], check=True, capture_output=True, text=True)
    return out.stdout.split()[1]


@pytest.mark.parametrize("reply", ["yes", "no", "", "y", "the fingerprint"])
def test_the_fingerprint_is_shown_and_confirmed(home: Home, server: Server, reply: str) -> None:
    file = home.ssh / "known_hosts"
    file.unlink()
    terminal = Terminal("trust", server.address)
    terminal.until("paste its fingerprint)? ")
    assert f"ED25519 {fingerprint(server.host_key)}" in terminal.text and not file.exists()
    terminal.type((fingerprint(server.host_key) if reply == "the fingerprint" else reply) + "\n")
    code = terminal.end()
    trusted = reply in ("yes", "the fingerprint")
    assert code == (ExitCode.OK if trusted else ExitCode.USER) and file.exists() == trusted
    assert not trusted or boards("facts", server.address).returncode == 0


def test_nothing_is_trusted_without_a_terminal(home: Home, server: Server) -> None:
    (home.ssh / "known_hosts").unlink()
    done = boards("trust", server.address, given=b"yes\n")
    assert done.returncode == ExitCode.USER and b"--fingerprint" in done.stderr
    assert fingerprint(server.host_key).encode() in done.stderr and not (home.ssh / "known_hosts").exists()


def test_the_fingerprint_as_an_argument(home: Home, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    (home.ssh / "known_hosts").unlink()
    wrong = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"
    assert main(["boards", "trust", server.address, "--fingerprint", wrong]) == ExitCode.BOARD
    assert not (home.ssh / "known_hosts").exists()
    capsys.readouterr()
    right = fingerprint(server.host_key)
    assert main(["boards", "trust", server.address, "--fingerprint", right, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["before"] == "unknown"
    assert main(["boards", "trust", server.address]) == 0
    assert "already trusted" in capsys.readouterr().out


def test_a_changed_key_is_shown_with_the_old_one(
    home: Home, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = keygen(tmp_path / "before")
    (home.ssh / "known_hosts").write_text(f"{server.name} {public(before)}\n")
    right = fingerprint(server.host_key)
    assert main(["boards", "trust", server.address]) == ExitCode.BOARD
    said = capsys.readouterr().err
    assert fingerprint(before) in said and right in said and "--replace" in said
    assert main(["boards", "trust", server.address, "--fingerprint", right]) == ExitCode.BOARD
    assert main(["boards", "trust", server.address, "--fingerprint", right, "--replace"]) == 0
    assert fingerprint(before) not in (home.ssh / "known_hosts").read_text()


# --- doctor, facts, list


def test_doctor_and_facts_in_words_and_in_json(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["boards", "doctor", server.address]) == 0
    assert "connection" in capsys.readouterr().out
    assert main(["boards", "doctor", server.address, "--target", "rdk-x5", "--json"]) == ExitCode.BOARD
    told = json.loads(capsys.readouterr().out)
    assert {f["about"] for f in told["findings"] if f["state"] == "error"} >= {"BPU runtime"}
    assert main(["boards", "facts", server.address, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hostname"] == os.uname().nodename
    assert main(["boards", "facts", server.address]) == 0
    assert os.uname().nodename in capsys.readouterr().out


def test_the_list_has_the_boards_of_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["boards", "list"]) == 0 and "no run" in capsys.readouterr().out
    for number, board in enumerate(["rdk-1", "rdk-1", "local"]):
        folder = tmp_path / f".bpudeploy/runs/2026-11-2{number}"
        folder.mkdir(parents=True)
        measured = {"board": board, "facts": {"hostname": "ubuntu", "cores": 8}, "images": 3}
        run = {"recipe": f"r{number}", "target": "local" if board == "local" else "cpu-ssh", "release": "ab" * 32}
        (folder / "summary.json").write_text(
            json.dumps({**run, "started": "2026-11-24T09:15:00+00:00", "measurement": measured})
        )
    (tmp_path / ".bpudeploy/runs/2026-11-29").mkdir()
    (tmp_path / ".bpudeploy/runs/2026-11-29/summary.json").write_text("{broken")
    assert main(["boards", "list", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["address"], one["recipe"], one["hostname"]) == ("rdk-1", "r1", "ubuntu")
    assert main(["boards", "list"]) == 0 and "from .bpudeploy/runs" in capsys.readouterr().out
