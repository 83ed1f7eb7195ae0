"""Facts that a board reports, collected in one round trip by one constant script and parsed strictly."""

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
_SECTIONS = re.findall(r"^say (\w+)", _SCRIPT.read_text(), re.MULTILINE)
PUSH_NEEDS = "sha256sum mv ln sync df mkdir readlink find rm ls cat chmod sort cut wc"
SIGNING_NEEDS = "ssh-keygen"


@dataclass(frozen=True)
class Facts:
    """Facts about a board; None or empty if unknown."""

    hostname: str
    user: str
    machine: str
    kernel: str
    clock_ahead_s: float
    """Clock offset to this machine; negative if the board is behind."""
    chip: str | None
    """From soc_name: x5, s100, s100p, s600."""
    model: str | None
    soc_uid: str | None
    """The only stable identifier of a board: addresses, accounts and keys of new boards are all alike."""
    system: str | None
    """/etc/version."""
    os: str | None
    runtime: str | None
    """Path of hrt_model_exec."""
    runtime_version: str | None
    """Version of libdnn, as hrt_model_exec reports it."""
    libdnn: tuple[str, ...]
    memory_mb: int | None
    tools: tuple[str, ...]
    """The installed ones of the commands that push needs."""
    root: str
    """The requested folder, or its nearest existing parent."""
    writable: bool
    free_mb: int
    python: str | None
    packages: Mapping[str, str]
    temperatures_c: Mapping[str, float]
    governors: Mapping[str, str]


def read_facts(board: Board, *, under: str = "") -> Facts:
    """Collect a board's facts with one read-only command.

    Args:
        under: folder prefix of /sys, /etc, /proc and /usr/hobot, for tests.

    Raises:
        BoardError: the output cannot be parsed.
    """
    arguments = [str(board.root), board.python, under, *PUSH_NEEDS.split(), SIGNING_NEEDS]
    before = time.time()
    out = board.run(["sh", "-c", _SCRIPT.read_text(), STEP, *arguments], timeout=_FACTS_S, step=STEP)
    try:
        return parse(out.stdout, (before + time.time()) / 2)
    except ValueError as error:
        reason = out.stderr.strip().splitlines()[-1:] or [str(error)]
        raise BoardError(
            f"cannot parse its facts: {reason[0][:200]}",
            board=board.name,
            step=STEP,
            hint="does its `sh` run POSIX scripts? Check with `bpudeploy boards shell`",
        ) from error


def parse(text: str, now: float) -> Facts:
    """Parse the script's output; ``now`` is this machine's time when it ran.

    Strict about what the script itself writes; unknown output of a vendor tool becomes None.

    Raises:
        ValueError: names the malformed section.
    """
    found = _sections(text)
    packages = _pairs(found, "python", " ")
    return Facts(
        hostname=_single(found, "host"),
        user=_single(found, "user"),
        machine=_single(found, "machine"),
        kernel=_single(found, "kernel"),
        clock_ahead_s=round(int(_single(found, "clock")) + 0.5 - now, 1),  # date prints whole seconds
        chip=_chip(_match(found["soc_name"])),
        model=_hardware(found["rdkos"]) or _match(found["model"]),
        soc_uid=_match(found["soc_uid"], r"(?:soc_uid:\s*)?(?:0x)?([0-9a-fA-F]{8,})"),
        system=_match(found["version"]),
        os=_match(found["os"], r'PRETTY_NAME="?([^"]*)"?'),
        runtime=_match(found["runtime"]),
        runtime_version=_version(found["runtime_version"]),
        libdnn=tuple(found["libdnn"]),
        memory_mb=_memory(found["memory"]),
        tools=tuple(found["tools"]),
        root=_single(found, "place"),
        writable=_single(found, "writable", "yes|no") == "yes",
        free_mb=_free(found["space"]),
        python=packages.pop("python", None),
        packages=packages,
        temperatures_c={name: int(v) / 1000 for name, v in _pairs(found, "temperatures", "=").items()},
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
            raise ValueError(f"unexpected line {line[:100]!r}")
    if list(found) != [*_SECTIONS, "end"] or lines[-1]:
        raise ValueError(f"output ends after {list(found)[-1] if found else 'nothing'}")
    return found


def _single(found: Mapping[str, Sequence[str]], section: str, pattern: str = ".+") -> str:
    if len(found[section]) != 1 or not re.fullmatch(pattern, found[section][0]):
        raise ValueError(f"{section} is {list(found[section])}, expected one line: {pattern}")
    return found[section][0]


def _match(lines: Sequence[str], pattern: str = "(.+)") -> str | None:
    return next((found[1] for line in lines if (found := re.fullmatch(pattern, line.strip()))), None)


def _chip(name: str | None) -> str | None:
    return None if name is None or name.strip("()").lower() in ("null", "unknown", "") else name.lower()


def _hardware(lines: Sequence[str]) -> str | None:
    """Return the line after ``[Hardware Model]:`` in the output of rdkos_info."""
    for title, line in pairwise(lines):
        if title.strip() == "[Hardware Model]:":
            return line.strip() or None
    return None


def _version(lines: Sequence[str]) -> str | None:
    """Return the library version from ``hrt_model_exec -v``: from the last line about libdnn, else the last of all."""
    versions = [(line.lower(), match[0]) for line in lines if (match := re.search(r"\d+\.\d+\.\d+[A-Za-z0-9]*", line))]
    of_libdnn = [version for line, version in versions if "dnn" in line or "runtime version" in line]
    return next(reversed(of_libdnn or [version for _, version in versions]), None)


def _memory(lines: Sequence[str]) -> int | None:
    kilobytes = _match(lines, r"MemTotal:\s+(\d+) kB")
    return int(kilobytes) * 1024 // 1_000_000 if kilobytes else None


def _free(lines: Sequence[str]) -> int:
    fields = re.fullmatch(r".*?\s(\d+)\s+(\d+)\s+(-?\d+)\s+(\d+%|-)\s.*", lines[-1]) if len(lines) > 1 else None
    if fields is None:
        raise ValueError(f"space is {list(lines)}, expected the output of `df -Pk`")
    return max(0, int(fields[3])) * 1024 // 1_000_000


def _pairs(found: Mapping[str, Sequence[str]], section: str, between: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for line in found[section]:
        name, separator, value = line.rpartition(between)
        if not separator or not name:
            raise ValueError(f"{section} has the malformed line {line!r}")
        while name in pairs:
            name += "'"  # two sensors with the same name
        pairs[name] = value
    return pairs
