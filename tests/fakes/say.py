"""The vendor tools' log: one line on the console with a level, and one in the file without."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from tests.fakes.world import shown


class Refused(Exception):
    """The tool ends here; each line is one ERROR in the log, the first of which may be a warning."""

    def __init__(self, *errors: str, warnings: tuple[str, ...] = ()) -> None:
        super().__init__(*errors)
        self.errors = errors
        self.warnings = warnings


def now() -> str:
    """Return the time as the tools print it, with milliseconds after a comma."""
    return datetime.now().strftime("%Y-%m-%d %H:%M:%S,%f")[:-3]


@dataclass
class Log:
    """``where`` names the source file that a line is said to come from. ``old``: before 1.2x, with the level."""

    path: Path
    old: bool = False
    levels_on_console: bool = True
    where: str = "tool_utils"
    line: int = 77
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.path.write_text("")

    def at(self, where: str, line: int) -> Log:
        """Say from where the next lines come."""
        self.where, self.line = where, line
        return self

    def info(self, text: str) -> None:
        """Print one line of level INFO."""
        self._say("INFO", text)

    def warning(self, text: str) -> None:
        """Print one line of level WARNING."""
        self._say("WARNING", text)

    def error(self, text: str) -> None:
        """Print one line of level ERROR."""
        self._say("ERROR", text)

    def debug(self, text: str) -> None:
        """Print into the file only."""
        self._file("DEBUG", text)

    def raw(self, text: str) -> None:
        """Print without any prefix: what a child process writes."""
        print(text, flush=True)

    def _say(self, level: str, text: str) -> None:
        text = shown(text)
        print(f"{now()} {level} {text}", flush=True)
        self._file(level, text)

    def _file(self, level: str, text: str) -> None:
        prefix = level if self.old else f"file: {self.where}.py func: {self.where} line No: {self.line}"
        with self.path.open("a") as out:
            out.write(f"{now()} {prefix} {text}\n")


def fault(stage: str) -> None:
    """Hang, fall silent or die in ``stage``, where FAKE_HB_HANG, FAKE_HB_SILENT or FAKE_HB_CRASH say so."""
    if os.environ.get("FAKE_HB_CRASH") == stage:
        sys.stdout.flush()
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)
    if os.environ.get("FAKE_HB_HANG") == stage:
        while True:
            time.sleep(3600)
    if stage == "compile":
        time.sleep(float(os.environ.get("FAKE_HB_SILENT", "0")))


def usage(tool: str, command: str, text: str) -> NoReturn:
    """End as click does on a bad command line: the tools' ``--version`` line is click's."""
    called = f"{tool} {command}".strip()
    print(f"Usage: {called} [OPTIONS]\nTry '{called} --help' for help.\n\nError: {text}", file=sys.stderr, flush=True)
    raise SystemExit(2)


@dataclass
class Options:
    """What was given on the command line: every value of an option, in order."""

    values: dict[str, list[tuple[str, ...]]]

    def one(self, name: str) -> str | None:
        """Return the last value, as click does."""
        given = self.values.get(name)
        return given[-1][0] if given else None

    def has(self, name: str) -> bool:
        """Tell whether it was given at all."""
        return name in self.values


def options(argv: list[str], arity: dict[str, int], short: dict[str, str], fail: Callable[[str], NoReturn]) -> Options:
    """Read ``argv``: options of 0, 1 or 2 values; an option that is not in ``arity`` fails."""
    found: dict[str, list[tuple[str, ...]]] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, equals, glued = word.partition("=") if word.startswith("--") else (word, "", "")
        name = short.get(name, name)
        if not name.startswith("-"):
            fail(f"Got unexpected extra argument ({word})")
        if name not in arity:
            fail(f"No such option: {word}")
        values = [glued] if equals else []
        while len(values) < arity[name]:
            if not rest:
                many = "an argument" if arity[name] == 1 else f"{arity[name]} arguments"
                fail(f"Option '{name}' requires {many}.")
            values.append(rest.pop(0))
        found.setdefault(name, []).append(tuple(values))
    return Options(found)
