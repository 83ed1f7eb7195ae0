"""Faults on the way and on the board: each is told, the old release still serves, and the next push heals."""

from __future__ import annotations

import contextlib
import getpass
import os
import random
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from bpudeploy.boards.address import Address, Identity
from bpudeploy.boards.base import CommandOutput
from bpudeploy.boards.ssh import SshBoard, open_ssh
from bpudeploy.effects.push import push
from bpudeploy.effects.script import Script, script_text
from bpudeploy.effects.trust import trust
from bpudeploy.errors import BoardError
from bpudeploy.signing import SigningKey
from tests.effects.releases import Between, its_root, policy, quiet, release, served

OLD = b"old" * 1000
FILES = ["model.bin", "manifest.json", "statement", "statement.sig"]


class Proxy:
    """A wire on loopback that breaks after so many bytes towards the board."""

    def __init__(self, port: int, lasts: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.passed = 0
        self._lasts, self._to = lasts, port
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._to))
        threading.Thread(target=self._back, args=(far, near), daemon=True).start()
        with contextlib.suppress(OSError):
            while data := near.recv(1 + min(4096, max(0, self._lasts - self.passed))):
                data = data[: max(0, self._lasts - self.passed)]
                self.passed += len(data)
                far.sendall(data)
                if self.passed >= self._lasts:
                    break
        for end in (near, far):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._listener.close()

    @staticmethod
    def _back(far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(65536):
                near.sendall(data)
        with contextlib.suppress(OSError):
            near.shutdown(socket.SHUT_RDWR)


def over(board: SshBoard, wire: Proxy, home: Path) -> contextlib.AbstractContextManager[SshBoard]:
    identity = Identity(home / "client_key", (home / "host_key.pub").read_text().strip())
    address = Address("127.0.0.1", getpass.getuser(), wire.port)
    return open_ssh(address, name="wire", python=board.python, root=board.root, identity=identity)


def test_the_wire_breaks_at_random_bytes(
    board: SshBoard, home: Path, root: Path, tmp_path: Path, key: SigningKey
) -> None:
    rng = random.Random(7)
    old, new = release(tmp_path, OLD), release(tmp_path, rng.randbytes(300_000))
    port = int(board._connection.get_extra_info("peername")[1])
    push(board, old, policy(key), quiet)
    whole = Proxy(port, 10**9)
    with over(board, whole, home) as wire:
        push(wire, new, policy(key), quiet)
    broken = 0
    for _ in range(int(os.environ.get("BPUDEPLOY_CUTS", "8"))):
        push(board, old, policy(key), quiet)
        for folder in (root / "releases").iterdir():  # so that all of it is sent again
            if folder.name == new.digest:
                subprocess.run(["rm", "-rf", str(folder)], check=True)
        (root / "previous").unlink(missing_ok=True)
        try:
            with over(board, Proxy(port, rng.randrange(2_000, whole.passed)), home) as wire:
                push(wire, new, policy(key), quiet)
        except BoardError:
            broken += 1
        assert served(root, key.public) in (OLD, new.binary.path.read_bytes())
        push(board, new, policy(key), quiet)
        assert served(root, key.public) == new.binary.path.read_bytes()
    assert broken >= 6 or os.environ.get("BPUDEPLOY_CUTS")


class Flips(Between):
    """Flips one bit of what install is given to write: statement, manifest or signature, by its place."""

    place: int
    bit: int

    def run(self, argv: Sequence[str], *, timeout: float, step: str) -> CommandOutput[str]:
        argv = list(argv)
        if argv[:3] == ["sh", "-c", script_text(Script.INSTALL)]:
            data = bytearray(argv[self.place].encode())
            data[self.bit // 7 % len(data)] ^= 1 << self.bit % 7  # it stays ASCII
            argv[self.place] = data.decode().replace("\0", "?")
        return super().run(argv, timeout=timeout, step=step)


@pytest.mark.parametrize(("what", "place"), [("statement", 10), ("manifest", 11), ("signature", 12)])
def test_a_flipped_bit_in_what_comes_with_a_binary(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey, what: str, place: int
) -> None:
    push(board, release(tmp_path, OLD), policy(key), quiet)
    new, rng = release(tmp_path, b"new" * 1000), random.Random(what)
    for _ in range(6):
        flipping = Flips(board, lambda call, work: work())
        flipping.place, flipping.bit = place, rng.randrange(7 * 150)
        with contextlib.suppress(BoardError):
            push(flipping, new, policy(key), quiet)
            assert what == "signature", "the armour's line breaks and last bits carry nothing"
        assert served(root, key.public) in (OLD, b"new" * 1000), "and if it was let in, it verifies"
        push(board, new, policy(key), quiet)
        assert served(root, key.public) == b"new" * 1000
        push(board, release(tmp_path, OLD), policy(key), quiet)
        subprocess.run(["rm", "-rf", str(root / "releases" / new.digest), str(root / "previous")], check=True)


def test_flipped_bits_in_the_binary_after_it_was_sent(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey
) -> None:
    push(board, release(tmp_path, OLD), policy(key), quiet)
    new, rng = release(tmp_path, b"new" * 1000), random.Random(1)

    def flip(call: int, work: Callable[[], Any]) -> Any:
        partial = root / "incoming" / new.digest / "model.bin"
        if partial.exists() and partial.read_bytes() == b"new" * 1000:
            data = bytearray(partial.read_bytes())
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            partial.write_bytes(data)
        return work()

    for _ in range(3):
        with pytest.raises(BoardError, match="the received release is damaged"):
            push(Between(board, flip), new, policy(key), quiet)
        assert served(root, key.public) == OLD
    push(board, new, policy(key), quiet)
    assert served(root, key.public) == b"new" * 1000


def test_whatever_a_cut_upload_left_is_gone_on_from_or_replaced(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey
) -> None:
    """Each file of an upload: cut at a random byte, of another release, read-only, a folder, a link to elsewhere."""
    rng, new = random.Random(4), release(tmp_path, b"new" * 1000)
    push(board, new, policy(key), quiet)
    whole = {name: (root / "current" / name).read_bytes() for name in FILES}
    for _ in range(12):
        push(board, release(tmp_path, OLD), policy(key), quiet)
        subprocess.run(["rm", "-rf", str(root / "releases" / new.digest), str(root / "previous")], check=True)
        left = root / "incoming" / new.digest
        left.mkdir()
        for name in rng.sample(FILES, rng.randint(1, 4)):
            data = rng.choice([whole[name], OLD, b"\xff" * 4000])
            (left / name).write_bytes(data[: rng.randint(0, len(data))])
            (left / name).chmod(rng.choice([0o644, 0o444]))
        (tmp_path / "elsewhere").write_bytes(OLD)
        (left / "statement.sig").unlink(missing_ok=True)
        (left / "statement.sig").symlink_to(tmp_path / "elsewhere")
        push(board, new, policy(key), quiet)
        assert served(root, key.public) == b"new" * 1000 and (tmp_path / "elsewhere").read_bytes() == OLD


@pytest.fixture
def disk(board: SshBoard, tmp_path: Path, key: SigningKey) -> Iterator[Path]:
    """Give the board a small file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with its_root(board, place / "root"):
            trust(board, key.public)
            yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_full_is_told_before_and_one_that_fills_up_meanwhile_too(
    board: SshBoard, disk: Path, tmp_path: Path, key: SigningKey
) -> None:
    root, big = Path(board.root), release(tmp_path, random.Random(3).randbytes(1_500_000))
    push(board, release(tmp_path, OLD), policy(key), quiet)
    filler = disk / "filler"
    filler.write_bytes(b"x" * 1_000_000)
    with pytest.raises(BoardError, match=r"1\.6 MB are needed under .*, \d\.\d MB are free"):
        push(board, big, policy(key), quiet)
    filler.unlink()

    def fill(call: int, work: Callable[[], Any]) -> Any:
        if call == 2:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
                while True:
                    stream.write(b"x" * 4096)
        return work()

    with pytest.raises(BoardError) as caught:
        push(Between(board, fill), big, policy(key), quiet)
    assert "No space" in str(caught.value) or "full" in str(caught.value.hint) or "space" in str(caught.value.hint)
    assert served(root, key.public) == OLD
    filler.unlink()
    push(board, big, policy(key), quiet)
    assert served(root, key.public) == big.binary.path.read_bytes()


def test_a_file_system_that_is_or_becomes_read_only(
    board: SshBoard, disk: Path, tmp_path: Path, key: SigningKey
) -> None:
    root, new = Path(board.root), release(tmp_path, b"new" * 1000)
    push(board, release(tmp_path, OLD), policy(key), quiet)

    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)

    for at in (1, 2, 3):
        (root / "lock").unlink(missing_ok=True)

        def lose(call: int, work: Callable[[], Any], at: int = at) -> Any:
            if call == at:
                remount("ro")
            return work()

        with pytest.raises(BoardError, match=r"Read-only file system|SFTP|ended"):
            push(Between(board, lose), new, policy(key), quiet)
        assert served(root, key.public) == OLD
        assert not push(board, release(tmp_path, OLD), policy(key), quiet).changed if at == 1 else True
        remount("rw")
    push(board, new, policy(key), quiet)
    assert served(root, key.public) == b"new" * 1000


@pytest.mark.parametrize("name", ["-rf", "a b", "$(touch owned)", "`id`;'\"", "ü€", "new\nline", "*", "..."])
def test_odd_names_of_the_root(board: SshBoard, tmp_path: Path, key: SigningKey, name: str) -> None:
    with its_root(board, tmp_path / name) as root:
        trust(board, key.public)
        push(board, release(tmp_path, OLD, name='it\'s "odd"; built 9'), policy(key), quiet)
        assert served(root, key.public) == OLD
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".bin") == [name]


def test_a_relative_root_is_under_the_login_folder(
    board: SshBoard, home: Path, tmp_path: Path, key: SigningKey
) -> None:
    where = board.run(["pwd"], timeout=10, step="t").stdout.strip()
    before, board.root = board.root, PurePosixPath("-relative root")
    try:
        trust(board, key.public)
        push(board, release(tmp_path, OLD), policy(key), quiet)
        assert served(Path(where) / "-relative root", key.public) == OLD
    finally:
        board.root = before
        subprocess.run(["rm", "-rf", "--", f"{where}/-relative root"], check=True)
