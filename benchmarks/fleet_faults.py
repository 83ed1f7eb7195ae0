"""What a rollout does when boards of a fleet fail in each way there is: real sshd boards, faults put in by their tools.

    python -m benchmarks.fleet_faults tiny --before older --boards 100 --faulty 3

For each fault, `--faulty` boards of the second wave have it: once no failure is allowed, once as many. Afterwards
each board is looked at from outside. Every board has an older release first. Run where both were built for cpu-ssh.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pytest import MonkeyPatch

from bpudeploy.fleet.events import BoardEnded, BoardStarted, Event, RolloutFinished, RolloutPlanned, TaskStatus
from bpudeploy.fleet.journal import Journal, list_journals
from bpudeploy.fleet.launch import ROLLOUTS
from bpudeploy.releases import find_release
from bpudeploy.signing import new_key
from tests.boards.sshd import Home, Server, free_port, keygen, make_home, public, serve


class Fault(StrEnum):
    """What is wrong with a board."""

    NONE = "none"
    OFF = "off: nothing listens"
    HOST_KEY = "another host key"
    REFUSES = "refuses: no upload can begin"
    FULL = "full: no byte is free"
    STALLS = "stalls: sha256sum never ends"
    SLOW = "slow: each sha256sum takes 2 s"
    DIES = "dies while the link is switched"


TOOLS = {
    Fault.FULL: ("df", "printf 'Filesystem 1024-blocks Used Available Capacity Mounted\\n/dev/x 9 9 0 100%% /\\n'"),
    Fault.STALLS: ("sha256sum", "exec sleep 1000"),
    Fault.SLOW: ("sha256sum", 'sleep 2; exec /usr/bin/sha256sum "$@"'),
    Fault.DIES: (
        "ln",
        'case "$*" in *.current.*) kill -9 "$(ps -o ppid= -p $PPID | tr -d " ")" $PPID;; esac; exec /bin/ln "$@"',
    ),
}
"""A command of the board and its replacement."""


@dataclass(frozen=True)
class Row:
    """What came of one rollout."""

    fault: Fault
    allowed: int
    result: str
    endings: Counter[str]
    begun: int
    most_unavailable: int
    wrong: int
    seconds: float

    def __str__(self) -> str:
        endings = ", ".join(f"{count} {name}" for name, count in sorted(self.endings.items()))
        return (
            f"| {self.fault} | {self.allowed} | {self.result} | {endings} | {self.begun} | {self.most_unavailable} "
            f"| {self.wrong} | {self.seconds:.0f} |"
        )


def run(folder: Path, release: str, fleet: Path) -> None:
    """Roll out by the command line, in a process of its own."""
    command = [sys.executable, "-m", "bpudeploy", "fleet", "rollout", release, "--fleet", str(fleet)]
    with (folder / "log").open("wb") as log:
        subprocess.run(command, env=os.environ.copy(), stdout=log, stderr=log)


def write_fleet(
    path: Path, servers: Sequence[Server], off: Sequence[int], args: argparse.Namespace, allowed: int
) -> Path:
    """Write the fleet file; the boards ``off`` are at addresses where nothing listens."""
    lines = ["boards:"]
    for i, server in enumerate(servers):
        where = f"address: '127.0.0.1:{free_port() if i in off else server.port}', root: {server.board}/bpudeploy"
        lines.append(f"  b{i}: {{{where}, target: cpu-ssh}}")
    lines += ["rollout:", f"  waves: [{{count: {args.boards // 10}}}, {{percent: 40}}]", "  max_unavailable: 20"]
    lines += [f"  max_failures: {allowed}", "  board_seconds: 20", "  attempts: 1", "  gates: {self_check: false}"]
    path.write_text("\n".join(lines) + "\n")
    return path


def break_board(folder: Path, server: Server, fault: Fault) -> None:
    """Put a fault into a board that has served its older release well."""
    if fault is Fault.REFUSES:
        incoming = server.board / "bpudeploy" / "incoming"
        shutil.rmtree(incoming)
        incoming.write_text("a file")
    if fault not in TOOLS:
        return
    name, script = TOOLS[fault]
    folder.mkdir(parents=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def unavailable(events: Sequence[Event]) -> int:
    """Return how many boards were out of service at once, at most, as the journal tells it."""
    now: set[str] = set()
    most = 0
    for event in events:
        if isinstance(event, BoardStarted):
            now.add(event.board)
        elif isinstance(event, BoardEnded) and (
            event.ending is TaskStatus.DONE or event.serves is not None or not event.touched
        ):
            now.discard(event.board)
        most = max(most, len(now))
    return most


def rollout(folder: Path, home: Home, key: Path, args: argparse.Namespace, fault: Fault, allowed: int) -> Row:
    """Roll the release out to fresh boards, some of which have the fault."""
    wanted, before = (find_release(f"{name}@cpu-ssh").digest for name in (args.release, args.before))
    first = args.boards // 10
    faulty = range(first, first + args.faulty) if fault is not Fault.NONE else range(0)
    with ExitStack() as stack:
        servers: list[Server] = []
        for i in range(args.boards):
            path = folder / f"tools-{i}" if i in faulty else None
            servers.append(stack.enter_context(serve(folder / f"b{i}", home, path=path)))
            servers[-1].trust(key)
        home.know(*servers)
        fleet = write_fleet(folder / "fleet.yaml", servers, [], args, args.boards)
        run(folder, args.before, fleet)
        for i in faulty:
            break_board(folder / f"tools-{i}", servers[i], fault)
        if fault is Fault.HOST_KEY:
            other, known = public(keygen(folder / "other")), home.ssh / "known_hosts"
            text = known.read_text()
            for i in faulty:
                text = text.replace(public(servers[i].host_key), other)
            known.write_text(text)
        off = [i for i in faulty if fault is Fault.OFF]
        fleet = write_fleet(folder / "fleet.yaml", servers, off, args, allowed)
        started = time.perf_counter()
        run(folder, args.release, fleet)
        seconds = time.perf_counter() - started
        events = Journal(list_journals(ROLLOUTS)[0]).read_new()
        links = [server.board / "bpudeploy" / "current" for server in servers]
        serving = [link.readlink().name if link.is_symlink() else "" for link in links]
        return row(events, fault, allowed, serving, wanted, before, seconds)


def row(
    events: Sequence[Event],
    fault: Fault,
    allowed: int,
    serving: Sequence[str],
    wanted: str,
    before: str,
    seconds: float,
) -> Row:
    """Hold the journal against what the boards really serve."""
    last = {event.board: event for event in events if isinstance(event, BoardEnded)}
    planned = next(event for event in events if isinstance(event, RolloutPlanned))
    wrong = 0
    for plan, serves in zip(planned.places, serving, strict=True):
        end = last.get(plan.board)
        recorded = before if end is None else end.serves
        wrong += serves not in (before, wanted) or (recorded is not None and recorded != serves)
    finished = next((event for event in events if isinstance(event, RolloutFinished)), None)
    return Row(
        fault,
        allowed,
        finished.result.value if finished is not None else "not finished",
        Counter(end.ending.value if end.work.value == "update" else f"rollback {end.ending}" for end in last.values()),
        sum(isinstance(event, BoardStarted) and event.work.value == "update" for event in events),
        unavailable(events),
        wrong,
        seconds,
    )


def main() -> None:
    """Print a row for each fault and policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release")
    parser.add_argument("--before", required=True, help="the older release's recipe")
    parser.add_argument("--boards", type=int, default=100)
    parser.add_argument("--faulty", type=int, default=3)
    args = parser.parse_args()
    print(f"{args.boards} boards, waves of {args.boards // 10}, 40 % and the rest; at most 20 unavailable")
    print("wrong: boards that serve something else than the journal says of them\n")
    print("| fault in wave 2 | may fail | result | endings | updates begun | most unavailable | wrong | s |")
    print("|---|---|---|---|---|---|---|---|")
    for fault in Fault:
        for allowed in (0,) if fault is Fault.NONE else (0, args.faulty):
            with tempfile.TemporaryDirectory(prefix="faults-") as name, MonkeyPatch.context() as patch:
                folder = Path(name)
                home = make_home(folder / "home", patch)
                patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
                key = folder / "config" / "bpudeploy" / "signing_key"
                new_key(key)
                print(rollout(folder, home, key, args, fault, allowed), flush=True)


if __name__ == "__main__":
    main()
