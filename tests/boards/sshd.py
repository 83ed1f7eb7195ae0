"""Real OpenSSH servers with one folder each, and a home folder with a key and a config."""

from __future__ import annotations

import contextlib
import getpass
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

from bpudeploy.boards.address import Address, Identity
from bpudeploy.boards.ssh import SshBoard, open_ssh
from bpudeploy.signing import load_key
from bpudeploy.testing import embedded_board

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")
LETS_IN = not pwd.getpwuid(os.getuid()).pw_shell.endswith(("nologin", "false"))
needs_sshd = pytest.mark.skipif(
    SSHD is None or not LETS_IN, reason="OpenSSH's sshd is not installed, or would not let this user in"
)


def keygen(file: Path, *options: str) -> Path:
    """Generate an ed25519 key pair, by default without a passphrase."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(file), *options]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return file


def public(key: Path) -> str:
    """Return a public key without its comment."""
    return " ".join(key.with_suffix(".pub").read_text().split()[:2])


@dataclass(frozen=True)
class Home:
    """A user's home on this machine."""

    folder: Path

    @property
    def ssh(self) -> Path:
        return self.folder / ".ssh"

    def config(self, text: str) -> None:
        (self.ssh / "config").write_text(text)

    def know(self, *servers: Server) -> None:
        """Trust the servers under their address and port."""
        lines = [f"[127.0.0.1]:{server.port} {public(server.host_key)}\n" for server in servers]
        (self.ssh / "known_hosts").write_text("".join(lines))


@dataclass(frozen=True)
class Server:
    """A running sshd; ``board`` is HOME after login."""

    port: int
    host_key: Path
    board: Path
    pid: int

    def trust(self, key: Path) -> None:
        """Trust ``key`` for releases in ``bpudeploy`` under the board's home, as ``keys install`` does."""
        keys = self.board / "bpudeploy" / "keys"
        keys.mkdir(parents=True)
        (keys / "allowed_signers").write_text(load_key(key).public.allowed_signer + "\n")

    def signal_sessions(self, number: int) -> None:
        """Send a signal to the processes of open connections."""
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(stat.read_text().rpartition(")")[2].split()[1]) == self.pid:
                    os.kill(int(stat.parent.name), number)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def name(self) -> str:
        return f"[127.0.0.1]:{self.port}"


def make_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Return a home with one key, set as $HOME without an SSH agent until the test ends."""
    (folder / ".ssh").mkdir(parents=True, mode=0o700)
    keygen(folder / ".ssh" / "id_ed25519")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return Home(folder)


@contextmanager
def serve(
    folder: Path, home: Home, *options: str, key: Path | None = None, sftp: bool = True, path: Path | None = None
) -> Iterator[Server]:
    """Run an sshd that accepts ``home``'s key (or ``key``); ``options`` come first and take precedence.

    ``path``: a folder with commands that override the system's.
    """
    board = folder / "board"
    board.mkdir(parents=True, exist_ok=True)
    host_key = folder / "host_key"
    if not host_key.exists():
        keygen(host_key)
    (folder / "authorized_keys").write_text((key or home.ssh / "id_ed25519").with_suffix(".pub").read_text())
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    port = free_port()
    lines = [
        *options,
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {host_key}\nPidFile none",
        f"AuthorizedKeysFile {folder / 'authorized_keys'}\nAllowUsers {getpass.getuser()}",
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no",
        "UsePAM no\nStrictModes no\nPrintMotd no\nMaxStartups 100",
        f"SetEnv HOME={board}" + (f" PATH={path}:{os.environ['PATH']}" if path else ""),
        "Subsystem sftp internal-sftp" if sftp else "",
    ]
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.02)
        yield Server(port, host_key, board, process.pid)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def openssh_board(folder: Path) -> Iterator[SshBoard]:
    """Run an sshd with keys of its own in ``folder``, and connect to it."""
    folder.mkdir(parents=True, exist_ok=True)
    key = folder / "client_key"
    with serve(folder, Home(folder), key=key if key.exists() else keygen(key)) as server:
        address, identity = Address("127.0.0.1", getpass.getuser(), server.port), Identity(key, public(server.host_key))
        root = PurePosixPath(server.board)
        with open_ssh(address, name="local", python=sys.executable, root=root, identity=identity) as board:
            yield board


def any_board(folder: Path) -> AbstractContextManager[SshBoard]:
    """Connect to an sshd where it is installed and lets this user in, else to the embedded board."""
    return openssh_board(folder) if SSHD is not None and LETS_IN else embedded_board(folder)


def free_port() -> int:
    """Return an unused port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
