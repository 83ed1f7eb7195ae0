"""Check that a board meets the requirements of a deployment; each problem comes with a fix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

from bpudeploy.boards.address import Address
from bpudeploy.boards.facts import PUSH_NEEDS, SIGNING_NEEDS, Facts, read_facts
from bpudeploy.boards.ssh import open_ssh
from bpudeploy.errors import BoardError
from bpudeploy.spec.target import BoardSpec, March, Target

_CLOCK_S = 120.0
_LOW_SPACE_MB, _MIN_SPACE_MB = 500, 50
_HOT_C = 85.0  # X3, X5 and S100 throttle at 95
_MIN_PYTHON = (3, 8)
_MACHINE = "aarch64"
_MARCHES = {  # by soc_name; that of RDK Ultra is not documented
    "x3": March.BERNOULLI2,
    "x5": March.BAYES_E,
    "s100": March.NASH_E,
    "s100p": March.NASH_M,
    "s600": March.NASH_P,
}


class Severity(StrEnum):
    """Severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class BoardFinding:
    """Result of one check, with a fix if there is a problem."""

    about: str
    state: Severity
    found: str
    repair: str | None = None


def doctor(address: Address, target: Target | None, *, under: str = "") -> list[BoardFinding]:
    """Check a board, and that it meets the runtime requirements of ``target``, without changing anything on it.

    A connection failure is reported as a finding and ends the checks. ``under`` as for ``read_facts``.
    """
    spec = target.board if target is not None else BoardSpec()
    found: list[BoardFinding] = []
    try:
        with open_ssh(address, name=str(address), python=spec.python, root=PurePosixPath(spec.root)) as board:
            found.append(_finding("connection", "connected; the host key is known, your key is accepted"))
            sftp = "available" if board.offers_sftp(step="sftp") else "not available; push does not need it"
            found.append(_finding("sftp", sftp))
            found += examine(read_facts(board, under=under), target)
    except BoardError as error:
        message = error.message.removeprefix(f"board {error.board!r}, {error.step}: ")
        found.append(_finding(error.step, message, False, error.hint))
    return found


def _finding(
    about: str, found: str, good: bool = True, repair: str | None = None, bad: Severity = Severity.ERROR
) -> BoardFinding:
    """Return a finding that is OK if ``good``, else of the severity ``bad`` with a fix."""
    return BoardFinding(about, Severity.OK, found) if good else BoardFinding(about, bad, found, repair)


def examine(facts: Facts, target: Target | None) -> list[BoardFinding]:
    """Evaluate a board's facts."""
    version = f", system {facts.system}" if facts.system else ""
    return [
        _finding("user", f"{facts.user} on {facts.hostname}"),
        *_tools(facts, target),
        *_folder(facts),
        _clock(facts),
        _chip(facts, target),
        _python(facts, target),
        *([] if target is not None and target.march is March.CPU else [_runtime(facts, target)]),
        _finding("system", f"{facts.os or 'unknown OS'}{version}, kernel {facts.kernel}"),
        _temperature(facts),
        _governors(facts),
    ]


def _tools(facts: Facts, target: Target | None) -> Iterator[BoardFinding]:
    missing = [name for name in PUSH_NEEDS.split() if name not in facts.tools]
    found = f"missing: {', '.join(missing)}" if missing else "all commands that push needs are installed"
    yield _finding("tools", found, not missing, "install coreutils and findutils there, or a busybox that has these")
    if (target is None or target.board.signed) and SIGNING_NEEDS not in facts.tools:
        repair = "install openssh-client 8.1 or newer there, or turn signing off in the target: board.signed: false"
        yield _finding("signing", f"no {SIGNING_NEEDS} to verify releases with", False, repair)


def _folder(facts: Facts) -> Iterator[BoardFinding]:
    repair = (
        f"as root there: create the target's board.root below {facts.root} and `chown {facts.user}` it; "
        "if the file system is read-only, set another board.root in a custom target"
    )
    can = "is" if facts.writable else "is not"
    yield _finding("folder", f"{facts.root} {can} writable by {facts.user}", facts.writable, repair)
    repair = "delete files there; `du -xh / | sort -h | tail` lists the largest folders"
    bad = Severity.ERROR if facts.free_mb < _MIN_SPACE_MB else Severity.WARNING
    free = f"{facts.free_mb} MB free under {facts.root}"
    yield _finding("space", free, facts.free_mb >= _LOW_SPACE_MB, repair, bad)


def _clock(facts: Facts) -> BoardFinding:
    off, side = abs(facts.clock_ahead_s), "ahead of" if facts.clock_ahead_s > 0 else "behind"
    if off <= _CLOCK_S:
        return _finding("clock", f"within {off:.0f} s of this machine's")
    found = f"{_duration(off)} {side} this machine's; its log timestamps are wrong"
    repair = "`timedatectl set-ntp true` there, or `date -s` as root; a board without a battery forgets the time"
    return _finding("clock", found, False, repair, Severity.WARNING)


def _duration(seconds: float) -> str:
    for size, unit in ((365.25 * 86400, "years"), (86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _chip(facts: Facts, target: Target | None) -> BoardFinding:
    uid = f", SoC id {facts.soc_uid}" if facts.soc_uid else ""
    chip = f"{facts.chip or facts.machine}{f', {facts.model}' if facts.model else ''}{uid}"
    if target is None or target.march is March.CPU or not target.march.is_known:
        return _finding("chip", chip)
    march = _MARCHES.get(facts.chip or "")
    if facts.chip is None and facts.machine != _MACHINE:
        repair = "is this the right address?"
        return _finding("chip", f"{chip}; every board with a BPU is {_MACHINE}", False, repair)
    if march is None:
        repair = f"check the board's label: a binary for {target.march} runs on no other march"
        return _finding("chip", f"unknown chip: {chip}", False, repair, Severity.WARNING)
    if march is not target.march:
        repair = "use the target for this board, or another board; `bpudeploy targets` lists the targets"
        return _finding("chip", f"{chip} is {march}; {target.name} is {target.march}", False, repair)
    return _finding("chip", f"{chip}, {march}")


def _python(facts: Facts, target: Target | None) -> BoardFinding:
    """Check the Python that push and benchmark run, and the packages that the benchmark imports there."""
    name = (target.board if target is not None else BoardSpec()).python
    version = tuple(int(digits) for digits in re.findall(r"\d+", facts.python or "")[:2])
    if version < _MIN_PYTHON:
        found = f"{name!r} does not start" if facts.python is None else f"{name!r} is Python {facts.python}"
        repair = "install Python 3.8 or newer there (`apt-get install python3`), or set board.python in a custom target"
        return _finding("python", f"{found}; push and benchmark need 3.8 or newer", False, repair)
    needed = [] if target is None else ["numpy"] if target.march is not March.CPU else ["numpy", "onnxruntime"]
    missing = [package for package in needed if package not in facts.packages]
    if missing:
        repair = f"`{name} -m pip install {' '.join(missing)}` there"
        return _finding("python", f"Python {facts.python} without {' and '.join(missing)}", False, repair)
    return _finding(
        "python", ", ".join([f"Python {facts.python}", *(f"{one} {facts.packages[one]}" for one in needed)])
    )


_MODULES = ("hobot-dnn", "hobot_dnn_rdkx5", "hbm_runtime")
"""Package names of the vendor's Python runtimes."""


def _runtime(facts: Facts, target: Target | None) -> BoardFinding:
    libraries = f"; {', '.join(PurePosixPath(path).name for path in facts.libdnn)}" if facts.libdnn else ""
    if facts.runtime is not None:
        version = f"version {facts.runtime_version}" if facts.runtime_version else "version unknown"
        return _finding("BPU runtime", f"{facts.runtime}, {version}{libraries}")
    modules = [f"{name} {facts.packages[name]}" for name in _MODULES if name in facts.packages]
    if modules:
        return _finding("BPU runtime", f"{', '.join(modules)} for Python; no hrt_model_exec{libraries}")
    if target is None:
        return _finding("BPU runtime", f"no hrt_model_exec{libraries}")
    repair = (
        "install it from the toolchain's release: package/board/install.sh ADDRESS (S100), install_xj3.sh (X3) or "
        "install_ultra.sh (Ultra)"
    )
    return _finding("BPU runtime", f"no hrt_model_exec{libraries}", False, repair)


def _temperature(facts: Facts) -> BoardFinding:
    if not facts.temperatures_c:
        return _finding("temperature", "not reported")
    name, celsius = max(facts.temperatures_c.items(), key=lambda item: item[1])
    repair = "let it cool down, or add a fan: boards throttle at 95 °C"
    return _finding("temperature", f"{celsius:.1f} °C ({name})", celsius < _HOT_C, repair, Severity.WARNING)


def _governors(facts: Facts) -> BoardFinding:
    if not facts.governors:
        return _finding("governor", "not reported")
    found = ", ".join(f"{name} {governor}" for name, governor in facts.governors.items())
    fast = all(governor == "performance" for governor in facts.governors.values())
    repair = "for a benchmark, as root there: `echo performance` into each governor file; reset by a reboot"
    return _finding("governor", found, fast, repair, Severity.WARNING)
