"""Check that a board meets the requirements of a deployment; each problem comes with a fix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

from bpudeploy.boards.address import Address
from bpudeploy.boards.facts import Facts, read_facts
from bpudeploy.boards.ssh import SshBoard, open_ssh
from bpudeploy.errors import BoardError
from bpudeploy.spec.target import BoardSpec, March, Target

_CLOCK_S = 120.0
_LOW_SPACE_MB, _MIN_SPACE_MB = 500, 50
_HOT_C = 85.0  # X3, X5 and S100 throttle at 95
_PUSH_NEEDS = "sha256sum mv ln sync df mkdir readlink find rm ls cat chmod sort cut wc"
_SIGNING_NEEDS = "ssh-keygen"
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
            found.append(_ok("connection", "connected; the host key is known, your key is accepted"))
            found.append(_sftp(board))
            found += examine(read_facts(board, under=under), target)
    except BoardError as error:
        message = error.message.removeprefix(f"board {error.board!r}, {error.step}: ")
        found.append(_error(error.step, message, error.hint))
    return found


def _ok(about: str, found: str) -> BoardFinding:
    return BoardFinding(about, Severity.OK, found)


def _warning(about: str, found: str, repair: str) -> BoardFinding:
    return BoardFinding(about, Severity.WARNING, found, repair)


def _error(about: str, found: str, repair: str | None) -> BoardFinding:
    return BoardFinding(about, Severity.ERROR, found, repair)


def examine(facts: Facts, target: Target | None) -> list[BoardFinding]:
    """Evaluate a board's facts."""
    return [
        _ok("user", f"{facts.user} on {facts.hostname}"),
        _tools(facts),
        *_signing(facts, target),
        *_folder(facts),
        _clock(facts),
        _chip(facts, target),
        _python(facts, target),
        *([] if target is not None and target.march is March.CPU else [_runtime(facts, target)]),
        _system(facts),
        _temperature(facts),
        _governors(facts),
    ]


def _sftp(board: SshBoard) -> BoardFinding:
    available = board.offers_sftp(step="sftp")
    return _ok("sftp", "available" if available else "not available; push does not need it")


def _tools(facts: Facts) -> BoardFinding:
    missing = [name for name in _PUSH_NEEDS.split() if name not in facts.tools]
    if missing:
        repair = "install coreutils and findutils there, or a busybox that has these"
        return _error("tools", f"missing: {', '.join(missing)}", repair)
    return _ok("tools", "all commands that push needs are installed")


def _signing(facts: Facts, target: Target | None) -> Iterator[BoardFinding]:
    if (target is None or target.board.signed) and _SIGNING_NEEDS not in facts.tools:
        repair = "install openssh-client 8.1 or newer there, or turn signing off in the target: board.signed: false"
        yield _error("signing", f"no {_SIGNING_NEEDS} to verify releases with", repair)


def _folder(facts: Facts) -> Iterator[BoardFinding]:
    if facts.writable:
        yield _ok("folder", f"{facts.root} is writable by {facts.user}")
    else:
        repair = (
            f"as root there: create the target's board.root below {facts.root} and `chown {facts.user}` it; "
            "if the file system is read-only, set another board.root in a custom target"
        )
        yield _error("folder", f"{facts.root} is not writable by {facts.user}", repair)
    free = f"{facts.free_mb} MB free under {facts.root}"
    if facts.free_mb >= _LOW_SPACE_MB:
        yield _ok("space", free)
    else:
        found = _error if facts.free_mb < _MIN_SPACE_MB else _warning
        yield found("space", free, "delete files there; `du -xh / | sort -h | tail` lists the largest folders")


def _clock(facts: Facts) -> BoardFinding:
    ahead = facts.clock_ahead_s
    if abs(ahead) <= _CLOCK_S:
        return _ok("clock", f"within {abs(ahead):.0f} s of this machine's")
    return _warning(
        "clock",
        f"{_duration(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} this machine's; its log timestamps are wrong",
        "`timedatectl set-ntp true` there, or `date -s` as root; a board without a battery forgets the time",
    )


def _duration(seconds: float) -> str:
    for size, unit in ((365.25 * 86400, "years"), (86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _chip(facts: Facts, target: Target | None) -> BoardFinding:
    uid = f", SoC id {facts.soc_uid}" if facts.soc_uid else ""
    chip = f"{facts.chip or facts.machine}{f', {facts.model}' if facts.model else ''}{uid}"
    if target is None or target.march is March.CPU or not target.march.is_known:
        return _ok("chip", chip)
    march = _MARCHES.get(facts.chip or "")
    if facts.chip is None and facts.machine != _MACHINE:
        repair = "is this the right address?"
        return _error("chip", f"{chip}; every board with a BPU is {_MACHINE}", repair)
    if march is None:
        repair = f"check the board's label: a binary for {target.march} runs on no other march"
        return _warning("chip", f"unknown chip: {chip}", repair)
    if march is not target.march:
        repair = "use the target for this board, or another board; `bpudeploy targets` lists the targets"
        return _error("chip", f"{chip} is {march}; {target.name} is {target.march}", repair)
    return _ok("chip", f"{chip}, {march}")


def _python(facts: Facts, target: Target | None) -> BoardFinding:
    """Check the Python that push and benchmark run, and the packages that the benchmark imports there."""
    name = (target.board if target is not None else BoardSpec()).python
    version = tuple(int(digits) for digits in re.findall(r"\d+", facts.python or "")[:2])
    if version < _MIN_PYTHON:
        found = f"{name!r} does not start" if facts.python is None else f"{name!r} is Python {facts.python}"
        repair = "install Python 3.8 or newer there (`apt-get install python3`), or set board.python in a custom target"
        return _error("python", f"{found}; push and benchmark need 3.8 or newer", repair)
    needed = [] if target is None else ["numpy"] if target.march is not March.CPU else ["numpy", "onnxruntime"]
    missing = [package for package in needed if package not in facts.packages]
    if missing:
        repair = f"`{name} -m pip install {' '.join(missing)}` there"
        return _error("python", f"Python {facts.python} without {' and '.join(missing)}", repair)
    return _ok("python", ", ".join([f"Python {facts.python}", *(f"{one} {facts.packages[one]}" for one in needed)]))


_MODULES = ("hobot-dnn", "hobot_dnn_rdkx5", "hbm_runtime")
"""Package names of the vendor's Python runtimes."""


def _runtime(facts: Facts, target: Target | None) -> BoardFinding:
    libraries = f"; {', '.join(PurePosixPath(path).name for path in facts.libdnn)}" if facts.libdnn else ""
    if facts.runtime is not None:
        version = f"version {facts.runtime_version}" if facts.runtime_version else "version unknown"
        return _ok("BPU runtime", f"{facts.runtime}, {version}{libraries}")
    modules = [f"{name} {facts.packages[name]}" for name in _MODULES if name in facts.packages]
    if modules:
        return _ok("BPU runtime", f"{', '.join(modules)} for Python; no hrt_model_exec{libraries}")
    if target is None:
        return _ok("BPU runtime", f"no hrt_model_exec{libraries}")
    repair = (
        "install it from the toolchain's release: package/board/install.sh ADDRESS (S100), install_xj3.sh (X3) or "
        "install_ultra.sh (Ultra)"
    )
    return _error("BPU runtime", f"no hrt_model_exec{libraries}", repair)


def _system(facts: Facts) -> BoardFinding:
    version = f", system {facts.system}" if facts.system else ""
    return _ok("system", f"{facts.os or 'unknown OS'}{version}, kernel {facts.kernel}")


def _temperature(facts: Facts) -> BoardFinding:
    if not facts.temperatures_c:
        return _ok("temperature", "not reported")
    name, celsius = max(facts.temperatures_c.items(), key=lambda item: item[1])
    found = f"{celsius:.1f} °C ({name})"
    if celsius < _HOT_C:
        return _ok("temperature", found)
    return _warning("temperature", found, "let it cool down, or add a fan: boards throttle at 95 °C")


def _governors(facts: Facts) -> BoardFinding:
    if not facts.governors:
        return _ok("governor", "not reported")
    found = ", ".join(f"{name} {governor}" for name, governor in facts.governors.items())
    if all(governor == "performance" for governor in facts.governors.values()):
        return _ok("governor", found)
    repair = "for a benchmark, as root there: `echo performance` into each governor file; reset by a reboot"
    return _warning("governor", found, repair)
