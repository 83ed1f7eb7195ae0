"""What a board says of itself, in one round trip: one constant script there, one strict parser here."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from bpudeploy.boards.base import Board
from bpudeploy.errors import BoardError

STEP = "facts"
_SCRIPT = Path(__file__).with_name("facts.sh")
_FACTS_S = 60.0
_SECTIONS = [
    *("user", "host", "machine", "kernel", "clock", "soc_name", "model", "soc_uid", "version", "os", "rdkos"),
    *("runtime", "runtime_version", "libdnn", "memory", "tools", "place", "writable", "space", "python"),
    *("temperatures", "governors"),
]


@dataclass(frozen=True)
class Facts:
    """What a board says of itself. None, or empty, is what it does not say."""

    hostname: str
    user: str
    machine: str
    kernel: str
    clock_ahead_s: float
    """How far its clock is ahead of this machine's; behind is negative."""
    chip: str | None
    """The system's own name of it (soc_name): x5, s100, s100p, s600."""
    model: str | None
    soc_uid: str | None
    """The one name that a board keeps: address, accounts and keys of a new one are like every other's."""
    system: str | None
    """/etc/version."""
    os: str | None
    runtime: str | None
    """Where hrt_model_exec is."""
    runtime_version: str | None
    """What it says of the library (libdnn) that it loads."""
    libdnn: tuple[str, ...]
    memory_mb: int | None
    tools: tuple[str, ...]
    """Which of the commands that push needs are there."""
    root: str
    """The folder that was asked about, or the nearest one above it that exists."""
    writable: bool
    free_mb: int
    python: str | None
    packages: Mapping[str, str]
    temperatures_c: Mapping[str, float]
    governors: Mapping[str, str]


def read_facts(board: Board, *, under: str = "") -> Facts:
    """Ask a board for its facts: one command, nothing changed there.

    Args:
        under: a folder that holds the board's /sys, /etc, /proc and /usr/hobot; empty on a board.

    Raises:
        BoardError: the answer is not what the script says.
    """
    argv = ["sh", "-c", _SCRIPT.read_text(), STEP, str(board.root), board.python, under]
    before = time.time()
    out = board.run(argv, timeout=_FACTS_S, step=STEP)
    try:
        return parse(out.stdout, (before + time.time()) / 2)
    except ValueError as error:
        said = out.stderr.strip().splitlines()[-1:] or [str(error)]
        raise BoardError(
            f"its answer cannot be read: {said[0][:200]}",
            board=board.name,
            step=STEP,
            hint="does `sh` there run a POSIX script? `bpudeploy boards shell` lets you look",
        ) from error


def parse(text: str, now: float) -> Facts:
    """Read the script's answer; ``now`` is this machine's clock when it ran.

    Strict about what the script itself writes; what a vendor's tool says in words of its own is None.

    Raises:
        ValueError: saying which section is wrong, and how.
    """
    found = _sections(text)
    root = _only(found, "place")
    return Facts(
        hostname=_only(found, "host"),
        user=_only(found, "user"),
        machine=_only(found, "machine"),
        kernel=_only(found, "kernel"),
        clock_ahead_s=round(int(_only(found, "clock")) + 0.5 - now, 1),  # date(1) has whole seconds
        chip=_chip(_first(found["soc_name"])),
        model=_hardware(found["rdkos"]) or _first(found["model"]),
        soc_uid=_match(r"(?:soc_uid:\s*)?(?:0x)?([0-9a-fA-F]{8,})", found["soc_uid"]),
        system=_first(found["version"]),
        os=_match(r'PRETTY_NAME="?([^"]*)"?', found["os"]),
        runtime=_first(found["runtime"]),
        runtime_version=_version(found["runtime_version"]),
        libdnn=tuple(found["libdnn"]),
        memory_mb=_memory(found["memory"]),
        tools=tuple(found["tools"]),
        root=root,
        writable={"yes": True, "no": False}[_one_of(found, "writable", ("yes", "no"))],
        free_mb=_free(found["space"]),
        python=_pairs(found, "python", " ").get("python"),
        packages={name: v for name, v in _pairs(found, "python", " ").items() if name != "python"},
        temperatures_c={name: _celsius(v) for name, v in _pairs(found, "temperatures", "=").items()},
        governors=_pairs(found, "governors", "="),
    )


def _sections(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    lines = text.split("\n")
    for line in lines[:-1]:
        if line.startswith("@"):
            found[line[1:]] = []
        elif line.startswith("|") and found:
            list(found.values())[-1].append(line[1:].rstrip())
        else:
            raise ValueError(f"{line[:100]!r} is not of the script")
    if list(found) != [*_SECTIONS, "end"] or lines[-1]:
        raise ValueError(f"it ends after {list(found)[-1] if found else 'nothing'}")
    return found


def _only(found: Mapping[str, Sequence[str]], section: str) -> str:
    if len(found[section]) != 1 or not found[section][0]:
        raise ValueError(f"{section} is {list(found[section])}, not one line")
    return found[section][0]


def _one_of(found: Mapping[str, Sequence[str]], section: str, words: Sequence[str]) -> str:
    if (word := _only(found, section)) not in words:
        raise ValueError(f"{section} is {word!r}, not {' or '.join(words)}")
    return word


def _first(lines: Sequence[str]) -> str | None:
    return next((line.strip() for line in lines if line.strip()), None)


def _match(pattern: str, lines: Sequence[str]) -> str | None:
    return next((found[1] for line in lines if (found := re.fullmatch(pattern, line.strip()))), None)


def _chip(name: str | None) -> str | None:
    return None if name is None or name.strip("()").lower() in ("null", "unknown", "") else name.lower()


def _hardware(lines: Sequence[str]) -> str | None:
    """Return the line under rdkos_info's ``[Hardware Model]:``."""
    for title, line in pairwise(lines):
        if title.strip() == "[Hardware Model]:":
            return line.strip() or None
    return None


def _version(lines: Sequence[str]) -> str | None:
    """Return the library's version among what ``hrt_model_exec -v`` logs: the runtime's own line, else the last."""
    said = [line for line in lines if re.search(r"\d+\.\d+\.\d+", line)]
    told = [line for line in said if "dnn" in line.lower() or "runtime version" in line.lower()] or said
    found = re.search(r"\d+\.\d+\.\d+[A-Za-z0-9]*", told[-1]) if told else None
    return found[0] if found else None


def _memory(lines: Sequence[str]) -> int | None:
    kilobytes = _match(r"MemTotal:\s+(\d+) kB", lines)
    return int(kilobytes) * 1024 // 1_000_000 if kilobytes else None


def _free(lines: Sequence[str]) -> int:
    fields = re.fullmatch(r".*?\s(\d+)\s+(\d+)\s+(-?\d+)\s+(\d+%|-)\s.*", lines[-1]) if len(lines) > 1 else None
    if fields is None:
        raise ValueError(f"space is {list(lines)}, not what `df -Pk` says")
    return max(0, int(fields[3])) * 1024 // 1_000_000


def _pairs(found: Mapping[str, Sequence[str]], section: str, between: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for line in found[section]:
        name, separator, value = line.rpartition(between)
        if not separator or not name:
            raise ValueError(f"{section} has {line!r}")
        while name in pairs:
            name += "'"  # two sensors of one name
        pairs[name] = value
    return pairs


def _celsius(millis: str) -> float:
    return int(millis) / 1000
