"""Our transfer compared with OpenSSH's scp and sftp, and rsync: one sshd, one run, interleaved.

    python -m benchmarks.transfer [--mb 100] [--runs 5] [--out TABLES.md]

Each figure is for the whole command, connecting and, for ours, verifying on the board included; Python's own
start is not (a process deploys to many boards). One proxy delays, limits and counts in the same way for all;
runs on plain loopback are timed without it. Server, client and proxy share this machine's cores: read the ratios.
"""

from __future__ import annotations

import argparse
import getpass
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bpudeploy.boards.address import Address, Identity
from bpudeploy.boards.ssh import open_ssh
from bpudeploy.transfer.send import send
from tests.boards.sshd import openssh_board

USER = getpass.getuser()


@dataclass(frozen=True)
class Link:
    """What lies between: ``delay_ms`` each way, ``rate`` in bytes per second (0: as it comes)."""

    name: str
    delay_ms: float = 0.0
    rate: float = 0.0


LINKS = (Link("loopback"), Link("20 ms each way", 20.0), Link("100 Mbit/s, 1 ms each way", 1.0, 12.5e6))


class Wire:
    """The proxy's process."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process, self.port = process, port

    def bytes(self) -> int:
        """Return the bytes both ways since the last call."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return sum(map(int, self._process.stdout.readline().split()))


@contextmanager
def wire(port: int, link: Link) -> Iterator[Wire]:
    """Run the proxy in a process of its own."""
    argv = [sys.executable, "-m", "benchmarks.proxy", str(port), str(link.delay_ms), str(link.rate)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        yield Wire(process, int(process.stdout.readline()))
        process.stdin.close()


@dataclass(frozen=True)
class Bench:
    """One sshd's keys, and where files go."""

    folder: Path
    port: int

    @property
    def target(self) -> Path:
        return self.folder / "target.bin"

    def options(self) -> list[str]:
        """Return ssh's options for our own keys, and nothing of the user's."""
        known = self.folder / "known"
        known.write_text(f"bench {(self.folder / 'board' / 'host_key.pub').read_text()}")
        settings = (f"UserKnownHostsFile={known}", "HostKeyAlias=bench", "IdentitiesOnly=yes", "BatchMode=yes")
        return ["-F", "/dev/null", "-i", str(self.folder / "board" / "client_key"), *(f"-o{s}" for s in settings)]

    def ours(self, source: Path) -> None:
        """Connect, send with what is at the target as base, verify."""
        host = (self.folder / "board" / "host_key.pub").read_text().strip()
        key = Identity(self.folder / "board" / "client_key", host)
        where = Address("127.0.0.1", USER, self.port)
        remote = PurePosixPath(self.target)
        with open_ssh(where, name="b", python=sys.executable, root=remote.parent, identity=key) as board:
            send(board, source, remote, bases=[remote], step="benchmark")

    def scp(self, source: Path, *more: str) -> None:
        """Copy with OpenSSH's scp."""
        call(
            ["scp", "-q", *more, "-P", str(self.port), *self.options(), str(source), f"{USER}@127.0.0.1:{self.target}"]
        )

    def scp_verified(self, source: Path) -> None:
        """Copy with scp, then have the board say the sha256: what a careful script does."""
        self.scp(source)
        call(["ssh", "-p", str(self.port), *self.options(), f"{USER}@127.0.0.1", "sha256sum", str(self.target)])

    def sftp(self, source: Path) -> None:
        """Copy with OpenSSH's sftp."""
        batch = f"put {source} {self.target}\n"
        call(["sftp", "-q", "-b", "-", "-P", str(self.port), *self.options(), f"{USER}@127.0.0.1"], batch)

    def rsync(self, source: Path, *more: str) -> None:
        """Copy with rsync: its delta against what is at the target."""
        ssh = " ".join(["ssh", "-p", str(self.port), *self.options()])
        call(["rsync", "-I", *more, "-e", ssh, str(source), f"{USER}@127.0.0.1:{self.target}"])


def call(argv: list[str], text: str = "") -> None:
    """Run a command that must succeed, quietly."""
    subprocess.run(argv, check=True, input=text, text=True, stdout=subprocess.DEVNULL)


@dataclass(frozen=True)
class Taken:
    """One tool's runs on one link, and the bytes of one more, both ways."""

    seconds: list[float]
    wire_bytes: int


Tool = Callable[[Bench, Path], None]


def tools() -> dict[str, Tool]:
    """Return what is compared, as far as it is installed."""
    found: dict[str, Tool] = {"bpudeploy": Bench.ours}
    found |= {"scp": Bench.scp, "scp, then ssh sha256sum": Bench.scp_verified, "sftp": Bench.sftp}
    return found | ({"rsync": Bench.rsync} if shutil.which("rsync") else {})


def measure(
    folder: Path, port: int, link: Link, source: Path, before: Path | None, runs: int, given: dict[str, Tool]
) -> dict[str, Taken]:
    """Time each tool ``runs`` times, interleaved; ``before`` is what the target holds at first."""
    seconds: dict[str, list[float]] = {name: [] for name in given}
    sizes: dict[str, int] = {}
    with wire(port, link) as proxy:
        direct = link.delay_ms == link.rate == 0
        for number in range(runs + 1):  # the last one counts bytes
            counting = number == runs
            bench = Bench(folder, port if direct and not counting else proxy.port)
            for name, tool in given.items():
                bench.target.unlink(missing_ok=True)
                if before:
                    shutil.copyfile(before, bench.target)
                proxy.bytes()
                started = time.perf_counter()
                tool(bench, source)
                took = time.perf_counter() - started
                assert bench.target.read_bytes() == source.read_bytes(), name
                if counting:
                    sizes[name] = proxy.bytes()
                else:
                    seconds[name].append(took)
    return {name: Taken(seconds[name], sizes[name]) for name in given}


def edited(data: bytes, places: int, size: int, seed: int) -> bytes:
    """Return ``data`` with ``size`` new bytes at each of ``places``: every second overwrites, the others insert."""
    rng = random.Random(seed)
    made, here = [], 0
    for number, at in enumerate(sorted(rng.randrange(len(data) - size) for _ in range(places))):
        at = max(at, here)
        made += [data[here:at], rng.randbytes(size)]
        here = at + (size if number % 2 else 0)
    return b"".join([*made, data[here:]])


def speed_table(link: Link, size: int, taken: dict[str, Taken]) -> list[str]:
    """Return a table of one link's speeds."""
    scp = statistics.median(taken["scp"].seconds)
    lines = [
        f"\n**{link.name}**\n",
        "| tool | median s | least to most | MB/s | speed against scp | bytes on the wire |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in taken.items():
        middle = statistics.median(one.seconds)
        spread = f"{min(one.seconds):.2f} to {max(one.seconds):.2f}"
        rate = f"{size / middle / 1e6:.0f} | {scp / middle:.2f}"
        lines.append(f"| {name} | {middle:.2f} | {spread} | {rate} | {one.wire_bytes:,} |")
    return lines


def delta_rows(folder: Path, port: int, data: bytes) -> Iterator[str]:
    """Yield a table row for each kind of 1 % change."""
    before, after = folder / "before.bin", folder / "after.bin"
    before.write_bytes(data)
    given = {name: tool for name, tool in tools().items() if name in ("bpudeploy", "rsync")}
    for places in (10, 100, 1000):
        size = len(data) // 100 // places
        after.write_bytes(edited(data, places, size, seed=places))
        taken = measure(folder, port, LINKS[0], after, before, 0, given)
        ours, theirs = taken["bpudeploy"], taken.get("rsync")
        other = f"{theirs.wire_bytes:,} | {ours.wire_bytes / theirs.wire_bytes:.2f}" if theirs else "not installed | "
        yield f"| {places} x {size:,} bytes | {ours.wire_bytes:,} | {other} |"


def compressible(size: int) -> bytes:
    """Return int8 weights of a normal distribution with a standard deviation of 12, from a fixed seed."""
    import numpy as np

    return np.random.default_rng(0).normal(0, 12, size).astype(np.int8).tobytes()


def main() -> None:
    """Print, and write, the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=100)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only-speed", action="store_true", help="leave out the change and the compression")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    data = os.urandom(args.mb * 1_000_000)
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "source.bin"
        with openssh_board(folder / "board") as board:
            port = int(board._connection.get_extra_info("peername")[1])
            source.write_bytes(data)
            for link in LINKS[:2]:
                lines += speed_table(link, len(data), measure(folder, port, link, source, None, args.runs, tools()))
            if args.only_speed:
                print("\n".join(lines))
                return
            lines += ["\n**a 1 % change, bytes on the wire, both ways**\n"]
            lines += ["| new bytes | bpudeploy | rsync | ratio |", "|---|---|---|---|", *delta_rows(folder, port, data)]
            source.write_bytes(compressible(len(data)))
            given = tools() | {"scp -C": lambda b, s: b.scp(s, "-C"), "rsync -z": lambda b, s: b.rsync(s, "-z")}
            for link in (LINKS[0], LINKS[2]):
                named = Link(f"int8 weights that compress, {link.name}", link.delay_ms, link.rate)
                lines += speed_table(named, len(data), measure(folder, port, named, source, None, args.runs, given))
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
