"""What a deployment needs of a board, looked at point by point; each finding that is not good has its repair."""

from __future__ import annotations

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
_TIGHT_MB, _NEEDED_MB = 500, 50
_HOT_C = 85.0  # X3, X5 and S100 slow down at 95
_PUSH_NEEDS = "sha256sum mv ln sync df mkdir readlink find rm ls cat chmod sort cut wc dd"
_SIGNING_NEEDS = "ssh-keygen"
_MACHINE = "aarch64"
_MARCHES = {  # soc_name; no RDK Ultra's was seen written
    "x3": March.BERNOULLI2,
    "x5": March.BAYES_E,
    "s100": March.NASH_E,
    "s100p": March.NASH_M,
    "s600": March.NASH_P,
}


class State(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One point: what it is about, what was found, and the repair where it is not good."""

    about: str
    state: State
    found: str
    repair: str | None = None


def doctor(address: Address, target: Target | None, *, under: str = "") -> list[Finding]:
    """Look at a board, and for ``target`` at what its runtime needs. Nothing is changed there.

    An unreachable board is a finding too: the first error, and the last point. ``under`` as for ``read_facts``.
    """
    spec = target.board if target is not None else BoardSpec()
    found: list[Finding] = []
    try:
        with open_ssh(address, name=str(address), python=spec.python, root=PurePosixPath(spec.root)) as board:
            found.append(Finding("connection", State.OK, "reached; its host key is known, our key is accepted"))
            found.append(_sftp(board))
            found += examine(read_facts(board, under=under), target)
    except BoardError as error:
        said = error.message.removeprefix(f"board {error.board!r}, {error.step}: ")
        found.append(Finding(error.step, State.ERROR, said, error.hint))
    return found


def examine(facts: Facts, target: Target | None) -> list[Finding]:
    """Judge a board's facts."""
    on_cpu = target is not None and target.march is March.CPU
    return [
        _user(facts),
        _tools(facts),
        *_signing(facts, target),
        *_folder(facts),
        _clock(facts),
        _chip(facts, target),
        _python(facts) if on_cpu else _runtime(facts, target),
        _system(facts),
        _heat(facts),
        _governors(facts),
    ]


def _sftp(board: SshBoard) -> Finding:
    there = board.offers_sftp(step="sftp")
    return Finding("sftp", State.OK, "there is one" if there else "there is none; push does without")


def _user(facts: Facts) -> Finding:
    return Finding("user", State.OK, f"{facts.user} on {facts.hostname}")


def _tools(facts: Facts) -> Finding:
    missing = [name for name in _PUSH_NEEDS.split() if name not in facts.tools]
    if missing:
        repair = "install coreutils and findutils there, or busybox with these"
        return Finding("tools", State.ERROR, f"it has no {', '.join(missing)}", repair)
    return Finding("tools", State.OK, "every command that push needs is there")


def _signing(facts: Facts, target: Target | None) -> Iterator[Finding]:
    if (target is None or target.board.signed) and _SIGNING_NEEDS not in facts.tools:
        repair = "install openssh-client 8.1 or newer there, or turn signing off in the target: board.signed: false"
        yield Finding("signing", State.ERROR, f"it has no {_SIGNING_NEEDS} to verify releases with", repair)


def _folder(facts: Facts) -> Iterator[Finding]:
    if facts.writable:
        yield Finding("folder", State.OK, f"{facts.root} is writable for {facts.user}")
    else:
        repair = (
            f"as root there: make the folder of the target's board.root below {facts.root} and "
            f"`chown {facts.user}` it; if the file system is read-only, name another board.root in a target of your own"
        )
        yield Finding("folder", State.ERROR, f"{facts.root} is not writable for {facts.user}", repair)
    state = State.ERROR if facts.free_mb < _NEEDED_MB else State.WARNING if facts.free_mb < _TIGHT_MB else State.OK
    tight = None if state is State.OK else "remove what is not needed there; `du -xh / | sort -h | tail` finds it"
    yield Finding("space", state, f"{facts.free_mb} MB free under {facts.root}", tight)


def _clock(facts: Facts) -> Finding:
    ahead = facts.clock_ahead_s
    if abs(ahead) <= _CLOCK_S:
        return Finding("clock", State.OK, f"{abs(ahead):.0f} s from this machine's")
    return Finding(
        "clock",
        State.WARNING,
        f"{_span(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} this machine's; the times in its logs are wrong",
        "`timedatectl set-ntp true` there, or `date -s` as root; a board without a battery forgets the time",
    )


def _span(seconds: float) -> str:
    for size, unit in ((365.25 * 86400, "years"), (86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _chip(facts: Facts, target: Target | None) -> Finding:
    uid = f", SoC id {facts.soc_uid}" if facts.soc_uid else ""
    said = f"{facts.chip or facts.machine}{f', {facts.model}' if facts.model else ''}{uid}"
    if target is None or target.march is March.CPU:
        return Finding("chip", State.OK, said)
    march = _MARCHES.get(facts.chip or "")
    if facts.chip is None and facts.machine != _MACHINE:
        repair = "is this the right address?"
        return Finding("chip", State.ERROR, f"{said}; every board with a BPU is {_MACHINE}", repair)
    if march is None:
        told = f"it does not say a chip that is known: {said}"
        repair = f"look at the board itself: a binary for {target.march} runs on no other march"
        return Finding("chip", State.WARNING, told, repair)
    if march is not target.march:
        repair = "name the target of this board, or the board of this target: `bpudeploy targets` lists them"
        return Finding("chip", State.ERROR, f"{said} is {march}; {target.name} is {target.march}", repair)
    return Finding("chip", State.OK, f"{said}, {march}")


def _python(facts: Facts) -> Finding:
    if facts.python is None:
        repair = "`apt-get install python3` there, or set board.python in a target of your own"
        return Finding("python", State.ERROR, "the target's Python does not start", repair)
    missing = [name for name in ("numpy", "onnxruntime") if name not in facts.packages]
    if missing:
        repair = f"`python3 -m pip install {' '.join(missing)}` there, for the Python that the target names"
        return Finding("python", State.ERROR, f"Python {facts.python} without {' and '.join(missing)}", repair)
    versions = ", ".join(f"{name} {facts.packages[name]}" for name in ("numpy", "onnxruntime"))
    return Finding("python", State.OK, f"Python {facts.python}, {versions}")


_MODULES = ("hobot-dnn", "hobot_dnn_rdkx5", "hbm_runtime")
"""The vendor's runtimes for Python, as their packages are called."""


def _runtime(facts: Facts, target: Target | None) -> Finding:
    libraries = f"; {', '.join(PurePosixPath(one).name for one in facts.libdnn)}" if facts.libdnn else ""
    if facts.runtime is not None:
        version = f"version {facts.runtime_version}" if facts.runtime_version else "which says no version"
        return Finding("BPU runtime", State.OK, f"{facts.runtime}, {version}{libraries}")
    modules = [f"{name} {facts.packages[name]}" for name in _MODULES if name in facts.packages]
    if modules:
        return Finding("BPU runtime", State.OK, f"{', '.join(modules)} for Python; no hrt_model_exec{libraries}")
    if target is None:
        return Finding("BPU runtime", State.OK, f"no hrt_model_exec{libraries}")
    repair = (
        "install it from the toolchain's release: package/board/install.sh ADDRESS (S100), install_xj3.sh (X3) or "
        "install_ultra.sh (Ultra)"
    )
    return Finding("BPU runtime", State.ERROR, f"it has no hrt_model_exec{libraries}", repair)


def _system(facts: Facts) -> Finding:
    version = f", system {facts.system}" if facts.system else ""
    return Finding("system", State.OK, f"{facts.os or 'unnamed'}{version}, kernel {facts.kernel}")


def _heat(facts: Facts) -> Finding:
    if not facts.temperatures_c:
        return Finding("temperature", State.OK, "not told")
    name, celsius = max(facts.temperatures_c.items(), key=lambda one: one[1])
    told = f"{celsius:.1f} °C ({name})"
    if celsius < _HOT_C:
        return Finding("temperature", State.OK, told)
    return Finding("temperature", State.WARNING, told, "let it cool, or give it a fan: boards slow down at 95 °C")


def _governors(facts: Facts) -> Finding:
    if not facts.governors:
        return Finding("governor", State.OK, "not told")
    told = ", ".join(f"{name} {governor}" for name, governor in facts.governors.items())
    if all(governor == "performance" for governor in facts.governors.values()):
        return Finding("governor", State.OK, told)
    repair = "for a benchmark, as root there: `echo performance` into each governor file; lost at reboot"
    return Finding("governor", State.WARNING, told, repair)
