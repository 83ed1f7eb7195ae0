"""push: what is on the board afterwards, what is refused, and in how few round trips."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bpudeploy.boards.base import CommandOutput
from bpudeploy.boards.ssh import SshBoard
from bpudeploy.effects.push import PushPolicy, push
from bpudeploy.effects.script import Script, script_text
from bpudeploy.effects.trust import TrustMode, trust
from bpudeploy.errors import BoardError
from bpudeploy.events import Event, Note
from bpudeploy.signing import SigningKey
from tests.effects.releases import SOON, Between, OnPath, a_key, its_root, policy, quiet, release, served, tools


def test_a_first_push_then_nothing_then_a_new_release(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey
) -> None:
    one, two = release(tmp_path, b"one" * 1000), release(tmp_path, b"two" * 1000)
    first = push(board, one, policy(key), quiet)
    assert first.changed and first.bytes_sent > 3000 and served(root, key.public) == b"one" * 1000
    again = push(board, one, policy(key), quiet)
    assert not again.changed and again.bytes_sent == 0
    push(board, two, policy(key), quiet)
    assert served(root, key.public) == b"two" * 1000 and served(root, key.public, "previous") == b"one" * 1000
    assert sorted(p.name for p in root.iterdir()) == ["current", "incoming", "keys", "previous", "releases"]
    assert not list((root / "incoming").iterdir())


def test_nothing_to_do_is_one_round_trip_and_a_push_two_and_the_transfer(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey
) -> None:
    counting = Between(board, lambda call, work: work())
    push(counting, release(tmp_path, b"one" * 1000), policy(key), quiet)
    scripts = [argv[2] for argv in counting.argvs if argv[:2] == ["sh", "-c"]]
    assert [s for s in scripts if s in (script_text(Script.BEGIN), script_text(Script.INSTALL))] == [
        script_text(Script.BEGIN),
        script_text(Script.INSTALL),
    ]
    before = counting.calls
    push(counting, release(tmp_path, b"one" * 1000), policy(key), quiet)
    assert counting.calls == before + 1


@pytest.mark.parametrize("name", ["model.bin", "manifest.json", "statement", "statement.sig"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_release_is_healed(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey, name: str, how: str
) -> None:
    one = release(tmp_path, b"one" * 1000)
    push(board, one, policy(key), quiet)
    path = root / "current" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    if how != "gone":
        path.write_bytes(data if how == "flipped" else data[: len(data) // 2])
    assert push(board, one, policy(key), quiet).changed and served(root, key.public) == b"one" * 1000


def test_a_binary_that_the_board_has_is_not_sent_again(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey
) -> None:
    push(board, release(tmp_path, b"one" * 100_000, name="a"), policy(key), quiet)
    renamed = push(board, release(tmp_path, b"one" * 100_000, name="b"), policy(key), quiet)
    assert renamed.changed and renamed.bytes_sent < 2000
    assert served(root, key.public) == b"one" * 100_000
    inodes = {p.stat().st_ino for p in (root / "releases").glob("*/model.bin")}
    assert len(inodes) == 2, "two releases share no file: damage to one would be damage to both"


def test_old_releases_go_and_those_in_use_stay(board: SshBoard, root: Path, tmp_path: Path, key: SigningKey) -> None:
    for number in range(6):
        push(board, release(tmp_path, b"%d" % number, built=number), policy(key), quiet)
    assert len(list((root / "releases").iterdir())) == 3
    assert served(root, key.public) == b"5" and served(root, key.public, "previous") == b"4"
    for number in range(2):  # older than all that is there, and in use
        push(board, release(tmp_path, b"%d" % number, built=number), policy(key), quiet)
    assert served(root, key.public) == b"1" and served(root, key.public, "previous") == b"0"
    one = PushPolicy(key, keep=1, allow_downgrade=True, timing=SOON)
    push(board, release(tmp_path, b"7", built=7), one, quiet)
    assert len(list((root / "releases").iterdir())) == 2
    assert served(root, key.public) == b"7" and served(root, key.public, "previous") == b"1"


def test_only_a_release_of_ours_is_ever_removed(board: SshBoard, root: Path, tmp_path: Path, key: SigningKey) -> None:
    push(board, release(tmp_path, b"x"), policy(key), quiet)
    (root / "notes.txt").write_text("mine")
    (root / "releases" / "mine").mkdir()
    for number in range(5):
        push(board, release(tmp_path, b"%d" % number), policy(key), quiet)
    assert (root / "notes.txt").read_text() == "mine" and (root / "releases" / "mine").is_dir()


# --- signatures


def test_a_board_that_trusts_nobody_refuses_and_says_how_to_go_on(
    board: SshBoard, tmp_path: Path, key: SigningKey
) -> None:
    with its_root(board, tmp_path / "other") as root:
        with pytest.raises(BoardError, match="trusts no signing key yet") as caught:
            push(board, release(tmp_path, b"x"), policy(key), quiet)
        assert caught.value.hint and "keys install" in caught.value.hint and "board.signed: false" in caught.value.hint
        assert not (root / "incoming").exists(), "nothing was sent"


def test_signing_can_be_off_and_is_said_to_be(board: SshBoard, tmp_path: Path, key: SigningKey) -> None:
    with its_root(board, tmp_path / "other") as root:
        events = list[Event]()
        push(board, release(tmp_path, b"x"), policy(None), events.append)
        assert any(isinstance(e, Note) and "NOT signed" in e.text for e in events)
        assert (root / "current" / "model.bin").read_bytes() == b"x"
        trust(board, key.public)
        assert push(board, release(tmp_path, b"x"), policy(key), quiet).changed, "an unsigned one is not enough now"
        assert served(root, key.public) == b"x"


def test_a_stranger_s_release_is_not_activated(board: SshBoard, root: Path, tmp_path: Path, key: SigningKey) -> None:
    push(board, release(tmp_path, b"ours"), policy(key), quiet)
    with pytest.raises(BoardError, match="this release is not signed by a key that it trusts"):
        push(board, release(tmp_path, b"theirs"), policy(a_key(tmp_path)), quiet)
    assert served(root, key.public) == b"ours" and len(list((root / "releases").iterdir())) == 1
    push(board, release(tmp_path, b"ours too"), policy(key), quiet)
    assert served(root, key.public) == b"ours too", "and it left no lock"


def test_trust_comes_once_and_changes_only_when_asked(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey
) -> None:
    other = a_key(tmp_path)
    assert not trust(board, key.public), "it was there already"
    with pytest.raises(BoardError, match="trusts another key already") as caught:
        trust(board, other.public)
    assert caught.value.hint and "--add" in caught.value.hint
    assert trust(board, other.public, TrustMode.ADD) and not trust(board, other.public, TrustMode.ADD)
    push(board, release(tmp_path, b"by other"), policy(other), quiet)
    assert served(root, other.public) == b"by other"
    push(board, release(tmp_path, b"by key"), policy(key), quiet)
    assert served(root, key.public) == b"by key"
    assert trust(board, other.public, TrustMode.REPLACE) and not trust(board, other.public, TrustMode.REPLACE)
    with pytest.raises(BoardError, match="not signed by a key that it trusts"):
        push(board, release(tmp_path, b"by key again"), policy(key), quiet)
    assert push(board, release(tmp_path, b"by key"), policy(other), quiet).changed, "signed anew, nothing else sent"
    assert served(root, other.public) == b"by key"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'ssh-keygen: unknown option -- Y' >&2; exit 1", "older than OpenSSH 8.1"),
        (None, "has no ssh-keygen"),
    ],
)
def test_a_board_that_cannot_verify_refuses(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey, script: str | None, message: str
) -> None:
    some = tools(tmp_path, also=())
    if script:
        (some / "ssh-keygen").write_text(f"#!/bin/sh\n{script}\n")
        (some / "ssh-keygen").chmod(0o755)
    limited = OnPath(board, some, {}, only=True)
    with pytest.raises(BoardError, match=message):
        push(limited, release(tmp_path, b"x"), policy(key), quiet)


# --- downgrade


def test_an_older_build_of_the_same_recipe_needs_to_be_asked_for(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey
) -> None:
    strict = policy(key, downgrade=False)
    push(board, release(tmp_path, b"new", built=200), strict, quiet)
    with pytest.raises(
        BoardError, match=r"built at 1970-01-01 00:01:40 UTC, the board's current one at .*00:03:20"
    ) as caught:
        push(board, release(tmp_path, b"old", built=100), strict, quiet)
    assert caught.value.hint and "--allow-downgrade" in caught.value.hint
    assert served(root, key.public) == b"new"
    push(board, release(tmp_path, b"another recipe", name="other", built=100), strict, quiet)
    push(board, release(tmp_path, b"new", built=200), strict, quiet)
    push(board, release(tmp_path, b"old", built=100), policy(key), quiet)
    assert served(root, key.public) == b"old"


# --- space, permissions, shells


def test_a_full_board_is_refused_before_anything_is_sent(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey
) -> None:
    instead = tmp_path / "instead"
    instead.mkdir()
    (instead / "df").write_text("#!/bin/sh\necho F 1024-blocks Used Available C M\necho x 9 8 1 99% /\n")
    (instead / "df").chmod(0o755)
    with pytest.raises(BoardError, match="MB are free"):
        push(OnPath(board, instead, {}), release(tmp_path, b"x" * 5000), policy(key), quiet)
    assert not list((root / "incoming").rglob("model.bin")) and not (root / "lock").is_symlink()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_root_that_cannot_be_written_says_so(board: SshBoard, tmp_path: Path, key: SigningKey) -> None:
    with its_root(board, Path("/proc/nowhere")), pytest.raises(BoardError, match="begin failed"):
        push(board, release(tmp_path, b"x"), policy(key), quiet)


def test_a_root_that_is_a_file_says_so(board: SshBoard, tmp_path: Path, key: SigningKey) -> None:
    (tmp_path / "file").write_text("")
    with its_root(board, tmp_path / "file"), pytest.raises(BoardError, match=r"begin failed: .*exists"):
        push(board, release(tmp_path, b"x"), policy(key), quiet)


def test_what_a_login_prints_is_not_taken_for_an_answer(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey
) -> None:
    class Noisy(Between):
        def run(self, argv: object, *, timeout: float, step: str) -> CommandOutput[str]:
            out = super().run(argv, timeout=timeout, step=step)  # type: ignore[arg-type]
            return CommandOutput(out.status, f"Welcome to Ubuntu!\nstate current\n{out.stdout}", f"motd\n{out.stderr}")

    assert push(Noisy(board, lambda call, work: work()), release(tmp_path, b"x"), policy(key), quiet).changed
    assert served(root, key.public) == b"x"


@pytest.mark.parametrize("script", list(Script))
def test_the_scripts_are_posix_shell(script: Script, tmp_path: Path) -> None:
    for shell in ("dash", "bash --posix", "busybox ash"):
        command = [*shell.split(), "-n", "-c", script_text(script)]
        if subprocess.run(["which", command[0]], capture_output=True).returncode == 0:
            subprocess.run(command, check=True)
    for bashism in ("[[", "local ", "function ", "<<<", "$RANDOM", "pipefail", "=="):
        assert bashism not in script_text(script), bashism


BUSYBOX = subprocess.run(["which", "busybox"], capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(not BUSYBOX, reason="busybox is not installed")
def test_a_board_of_busybox_and_ssh_keygen_alone_will_do(
    board: SshBoard, root: Path, tmp_path: Path, key: SigningKey
) -> None:
    applets = tmp_path / "applets"
    applets.mkdir()
    for name in subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split():
        (applets / name).symlink_to(BUSYBOX)
    (applets / "ssh-keygen").symlink_to("/usr/bin/ssh-keygen")
    small = OnPath(board, applets, {}, only=True)
    for number in range(5):
        push(small, release(tmp_path, b"%d" % number, built=number), policy(key), quiet)
    assert served(root, key.public) == b"4" and served(root, key.public, "previous") == b"3"
    assert len(list((root / "releases").iterdir())) == 3
