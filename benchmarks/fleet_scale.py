"""A release to a hundred real sshd boards on loopback, by `bpudeploy fleet rollout` and by Ansible, in one run.

    python -m benchmarks.fleet_scale --boards 100 --ansible /tmp/ansible/bin/ansible-playbook

Each board is an sshd of its own, with a folder of its own. Both send the same file, to the same boards, over the same
SSH; ours also signs it, verifies signature and sha256 there, switches a link and keeps a journal. Ansible has its
documented fast settings: pipelining, as many forks as boards, ControlPersist, no facts; its copy verifies a checksum
(sha1) and a stat asks for a sha256, as ours does. Run where the release was built (the recipe's target is cpu-ssh).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pytest import MonkeyPatch

from bpudeploy.digest import digest_file
from bpudeploy.releases import find_release
from bpudeploy.signing import new_key
from bpudeploy.store.objects import default_root, object_path
from tests.boards.sshd import Home, Server, make_home, serve

CFG = """\
[defaults]
forks = {boards}
gathering = explicit
host_key_checking = True
interpreter_python = {python}
stdout_callback = minimal
[ssh_connection]
pipelining = True
ssh_args = -C -o ControlMaster=auto -o ControlPersist=60s -o UserKnownHostsFile={known} -o IdentityFile={key}
control_path_dir = {folder}/cp
"""
PLAY = """\
- hosts: all
  tasks:
    - file: {{path: "{{{{ root }}}}/release", state: directory}}
    - copy: {{src: "{binary}", dest: "{{{{ root }}}}/release/model.bin"}}
    - stat: {{path: "{{{{ root }}}}/release/model.bin", checksum_algorithm: sha256}}
      register: there
    - assert: {{that: "there.stat.checksum == '{digest}'", quiet: true}}
"""


@dataclass(frozen=True)
class Took:
    """What a command took."""

    seconds: float
    status: int
    peak_mb: float
    """Of its largest process."""


def timed(argv: Sequence[str], folder: Path, log: Path, **env: str) -> Took:
    """Run a command."""
    before = time.perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen(argv, cwd=folder, stdout=out, stderr=out, env={**os.environ, **env})
        _, status, usage = os.wait4(process.pid, 0)
    return Took(time.perf_counter() - before, os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024 / 1e6)


@contextmanager
def boards(folder: Path, home: Home, count: int) -> Iterator[list[Server]]:
    """Run so many sshd."""
    with ExitStack() as stack:
        yield [stack.enter_context(serve(folder / f"board-{i:03}", home)) for i in range(count)]


def inventory(path: Path, servers: Sequence[Server], unavailable: str) -> Path:
    """Write a fleet file; no gate but what a push itself verifies."""
    lines = ["boards:"]
    for i, server in enumerate(servers):
        lines.append(
            f"  board-{i:03}: {{address: '127.0.0.1:{server.port}', root: {server.board}/bpudeploy, target: cpu-ssh}}"
        )
    lines += ["rollout:", f"  max_unavailable: {unavailable}", "  gates: {self_check: false}"]
    path.write_text("\n".join(lines) + "\n")
    return path


def ours(folder: Path, fleet: Path, release: str, env: dict[str, str]) -> Took:
    """Roll out by bpudeploy, in a process of its own, as a user would."""
    argv = [sys.executable, "-m", "bpudeploy", "fleet", "rollout", release, "--fleet", str(fleet)]
    return timed(argv, Path.cwd(), folder / "ours.log", **env)


def ansible(folder: Path, playbook: str, servers: Sequence[Server], home: Home, binary: Path) -> Took:
    """Copy and checksum by Ansible."""
    known, key = home.ssh / "known_hosts", home.ssh / "id_ed25519"
    (folder / "cp").mkdir(exist_ok=True)
    (folder / "ansible.cfg").write_text(
        CFG.format(boards=len(servers), python=sys.executable, known=known, key=key, folder=folder)
    )
    hosts = [
        f"board-{i:03} ansible_host=127.0.0.1 ansible_port={server.port} root={server.board}/ansible"
        for i, server in enumerate(servers)
    ]
    (folder / "hosts").write_text("[all]\n" + "\n".join(hosts) + "\n")
    (folder / "play.yaml").write_text(PLAY.format(binary=binary, digest=digest_file(binary)))
    argv = [playbook, "-i", "hosts", "play.yaml"]
    return timed(argv, folder, folder / "ansible.log", ANSIBLE_CONFIG=str(folder / "ansible.cfg"))


def main() -> None:
    """Roll a release out by both, and print what each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", help="built here, for the target cpu-ssh")
    parser.add_argument("--boards", type=int, default=100)
    parser.add_argument("--ansible", default=shutil.which("ansible-playbook"))
    parser.add_argument("--unavailable", default="100%")
    args = parser.parse_args()
    known = find_release(f"{args.release}@cpu-ssh")
    binary = object_path(default_root(), known.manifest.binary)
    with tempfile.TemporaryDirectory(prefix="fleet-") as name, MonkeyPatch.context() as patch:
        folder = Path(name)
        home = make_home(folder / "home", patch)
        key = folder / "config" / "bpudeploy" / "signing_key"
        new_key(key)
        with boards(folder, home, args.boards) as servers:
            home.know(*servers)
            home.config(f"Host 127.0.0.1\n  IdentityFile {home.ssh / 'id_ed25519'}\n")
            for server in servers:
                server.trust(key)
            single = inventory(folder / "single.yaml", servers[:1], args.unavailable)
            every = inventory(folder / "fleet.yaml", servers, args.unavailable)
            env = {"HOME": str(home.folder), "XDG_CONFIG_HOME": str(folder / "config")}
            print(f"{args.boards} boards, {binary.stat().st_size / 1e6:.1f} MB each")
            alone = ours(folder, single, args.release, env)
            shutil.rmtree(servers[0].board / "bpudeploy" / "releases")
            mine = ours(folder, every, args.release, env)
            per_board = (mine.peak_mb - alone.peak_mb) / max(1, args.boards - 1)
            print(f"bpudeploy fleet rollout: {mine.seconds:.1f} s, exit {mine.status}, peak {mine.peak_mb:.0f} MB")
            print(f"one board alone: {alone.seconds:.1f} s, peak {alone.peak_mb:.0f} MB: {per_board:.2f} MB a board")
            if args.ansible:
                theirs = ansible(folder, args.ansible, servers, home, binary)
                print(f"ansible-playbook: {theirs.seconds:.1f} s, exit {theirs.status}, peak {theirs.peak_mb:.0f} MB")
                print(f"ratio {theirs.seconds / mine.seconds:.1f}")
            for log in ("ours.log", "ansible.log"):
                if (folder / log).exists():
                    shutil.copyfile(folder / log, Path(".bpudeploy") / log)


if __name__ == "__main__":
    main()
