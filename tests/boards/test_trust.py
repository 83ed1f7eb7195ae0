"""Pinning host keys: confirmed first, written atomically, and valid for OpenSSH."""

from __future__ import annotations

import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import pytest

from bpudeploy.boards import known_hosts
from bpudeploy.boards.address import Address
from bpudeploy.boards.ssh import open_ssh
from bpudeploy.boards.trust import KeyStatus, OfferedKey, fetch_host_key, pin, require_fingerprint
from bpudeploy.errors import BoardError, UsageError
from tests.boards.sshd import Home, Server, keygen, needs_sshd, public, serve

pytestmark = needs_sshd


def made(server: Server) -> OfferedKey:
    return fetch_host_key(Address.parse(server.address))


def connects(address: str) -> bool:
    with open_ssh(Address.parse(address), name="b", python="python3", root=PurePosixPath("r")) as board:
        return board.run(["true"], timeout=5, step="test").ok


def fingerprint(key: Path) -> str:
    out = subprocess.run(["ssh-keygen", "-lf", f"{key}.pub"], check=True, capture_output=True, text=True)
    return out.stdout.split()[1]


def test_an_offered_key_matches_ssh_keygen_and_is_not_trusted(home: Home, server: Server) -> None:
    shown = made(server)
    assert (shown.kind, shown.fingerprint) == ("ED25519", fingerprint(server.host_key))
    assert shown.status is KeyStatus.UNKNOWN and shown.name == server.name and shown.known == ()
    assert not (home.ssh / "known_hosts").exists()
    assert "Accepted" not in (server.host_key.parent / "log").read_text()


def test_a_pinned_key_works_for_bpudeploy_and_ssh(home: Home, server: Server) -> None:
    pin(made(server))
    assert stat.S_IMODE((home.ssh / "known_hosts").stat().st_mode) == 0o600
    assert connects(server.address) and made(server).status is KeyStatus.TRUSTED
    ssh = ["ssh", "-F", "none", "-o", f"UserKnownHostsFile={home.ssh / 'known_hosts'}", "-o", "BatchMode=yes"]
    ssh += ["-o", "StrictHostKeyChecking=yes", "-i", str(home.ssh / "id_ed25519"), "-p", str(server.port), "127.0.0.1"]
    assert subprocess.run([*ssh, "true"], check=False).returncode == 0


def test_existing_content_mode_and_link_are_kept(home: Home, server: Server, tmp_path: Path) -> None:
    kept = tmp_path / "dotfiles"
    kept.write_bytes(b"# mine \xff\nother ssh-ed25519 AAAA")  # no newline at its end, and not UTF-8
    kept.chmod(0o644)
    (home.ssh / "known_hosts").symlink_to(kept)
    pin(made(server))
    assert (home.ssh / "known_hosts").is_symlink() and stat.S_IMODE(kept.stat().st_mode) == 0o644
    lines = kept.read_bytes().splitlines()
    assert lines[:2] == [b"# mine \xff", b"other ssh-ed25519 AAAA"]
    assert lines[2].decode() == f"{server.name} {public(server.host_key)}"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_the_folder_is_created_with_mode_0700(home: Home, server: Server) -> None:
    home.config("Host *\n  UserKnownHostsFile ~/new/folder/hosts\n")
    pin(made(server))
    assert stat.S_IMODE((home.folder / "new" / "folder").stat().st_mode) == 0o700 and connects(server.address)


def test_a_fingerprint_that_differs_is_refused(home: Home, server: Server, tmp_path: Path) -> None:
    shown = made(server)
    require_fingerprint(shown, fingerprint(server.host_key))
    with pytest.raises(BoardError, match="nothing is trusted"):
        require_fingerprint(shown, fingerprint(keygen(tmp_path / "other")))
    with pytest.raises(UsageError, match="not a fingerprint"):
        require_fingerprint(shown, "SHA256:short")


@pytest.mark.parametrize("hashed", [False, True])
def test_a_changed_key_needs_replace_and_other_lines_are_kept(
    home: Home, server: Server, tmp_path: Path, hashed: bool
) -> None:
    before, file = keygen(tmp_path / "before"), home.ssh / "known_hosts"
    file.write_text(f"{server.name} {public(before)}\n")
    if hashed:
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=True, capture_output=True)
        Path(f"{file}.old").unlink()
    old = file.read_text()
    file.write_text(f"# first\n{old}rdk-9 {public(before)}\n")
    shown = made(server)
    assert shown.status is KeyStatus.CHANGED
    assert [(e.key.get_fingerprint(), e.location) for e in shown.known] == [(fingerprint(before), f"{file}:2")]
    text = file.read_text()
    with pytest.raises(BoardError, match="known_hosts has another key: ED25519 SHA256:") as caught:
        pin(shown)
    assert "--replace" in str(caught.value.hint) and file.read_text() == text
    pin(shown, replace=True)
    new = f"{server.name} {public(server.host_key)}"
    assert file.read_text() == f"# first\nrdk-9 {public(before)}\n{new}\n" and connects(server.address)


def test_replace_removes_one_of_several_names_from_a_line(home: Home, server: Server, tmp_path: Path) -> None:
    before = public(keygen(tmp_path / "before"))
    (home.ssh / "known_hosts").write_text(f"rdk-1,{server.name},rdk-2 {before}\n")
    pin(made(server), replace=True)
    assert (home.ssh / "known_hosts").read_text().splitlines()[0] == f"rdk-1,rdk-2 {before}"


@pytest.mark.parametrize("where", ["a pattern", "another file"])
def test_an_old_key_that_cannot_be_removed_is_named(home: Home, server: Server, tmp_path: Path, where: str) -> None:
    before, file = public(keygen(tmp_path / "before")), home.ssh / "known_hosts"
    file.write_text(f"[127.*]:* {before}\n" if where == "a pattern" else "")
    if where == "another file":
        (home.ssh / "known_hosts2").write_text(f"{server.name} {before}\n")
    text = file.read_text()
    with pytest.raises(BoardError, match=r"another key is in .*known_hosts2?:1"):
        pin(made(server), replace=True)
    assert file.read_text() == text


def test_a_revoked_key_is_never_pinned(home: Home, server: Server) -> None:
    (home.ssh / "known_hosts").write_text(f"@revoked * {public(server.host_key)}\n")
    with pytest.raises(BoardError, match="revoked in known_hosts"):
        made(server)


def test_the_key_of_a_board_behind_a_jump_host(home: Home, server: Server, tmp_path: Path) -> None:
    with serve(tmp_path / "bastion", home) as bastion:
        home.know(bastion)
        home.config(f"Host rdk\n  HostName 127.0.0.1\n  Port {server.port}\n  ProxyJump 127.0.0.1:{bastion.port}\n")
        shown = fetch_host_key(Address.parse("rdk"))
        assert shown.fingerprint == fingerprint(server.host_key)
        pin(shown)
        assert connects("rdk")


def test_settings_without_a_known_hosts_file_are_an_error(home: Home, server: Server) -> None:
    home.config("Host *\n  UserKnownHostsFile none\n")
    with pytest.raises(BoardError, match="have no known_hosts file"):
        made(server)


def test_a_file_that_cannot_be_written_is_an_error(home: Home, server: Server) -> None:
    (home.ssh / "known_hosts").mkdir()
    with pytest.raises(BoardError, match=r"unusable SSH settings: .*Is a directory"):
        pin(made(server))
    assert sorted(p.name for p in home.ssh.iterdir()) == ["id_ed25519", "id_ed25519.pub", "known_hosts"]


def test_concurrent_pins_are_all_written(home: Home, server: Server) -> None:
    key, file = made(server).key, home.ssh / "known_hosts"
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda i: known_hosts.pin(file, f"rdk-{i}", key, replace=False), range(20)))
    assert len(file.read_text().splitlines()) == 20


def test_pinning_is_atomic_if_killed(home: Home, server: Server, tmp_path: Path) -> None:
    file = home.ssh / "known_hosts"
    file.write_text(f"rdk-1 {public(server.host_key)}\n")
    code = (
        "import os, sys; from pathlib import Path; from bpudeploy.boards import known_hosts as k\n"
        "import asyncssh\n"
        "key = asyncssh.read_public_key(sys.argv[2]); seen = [int(sys.argv[3])]\n"
        "def audit(event, args):\n"
        "    if event in ('open', 'os.rename', 'os.chmod') and str(Path(sys.argv[1]).parent) in repr(args):\n"
        "        seen[0] -= 1\n"
        "        if seen[0] < 0: os._exit(9)\n"
        "sys.addaudithook(audit); k.pin(Path(sys.argv[1]), 'rdk-2', key, replace=False)\n"
    )
    old, ends = file.read_bytes(), []
    for stop in range(20):
        file.write_bytes(old)
        argv = [sys.executable, "-c", code, str(file), f"{server.host_key}.pub", str(stop)]
        ends.append(subprocess.run(argv, check=False).returncode)
        lines = file.read_text().splitlines()
        assert file.read_bytes() == old or (len(lines) == 2 and lines[1].startswith("rdk-2 ssh-ed25519 "))
        if ends[-1] == 0:
            break
    assert ends[-1] == 0 and ends.count(9) >= 3
    assert [e.line for e in known_hosts.entries([file], "rdk-2")] == [2]
