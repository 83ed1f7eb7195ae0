"""The governors are set for a benchmark, and given back in whatever way the agent ends.

Before the first is changed, the old values are written down (ROOT/governors.json), and a guard is started: a shell in a
session of its own that waits on a pipe from us. When the pipe closes, for whatever reason, it writes the old values
back and removes the record. Where the guard is gone, ``heal`` does that: the worker's at its end, the supervisor's at
its end, or the next agent's. A lock on ROOT, which the guard inherits, says that somebody still answers for the record.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from contextlib import suppress
from typing import Dict, List, Optional

from .paths import boot, found, read

_BOOST = "/sys/devices/system/cpu/cpufreq/boost"
_CPU = "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor"
_BPU = "/sys/devices/system/bpu/bpu*/devfreq/*/governor"
_PATIENCE_S = 1.0
_ANOTHER = "another agent holds this board's governors; it will give them back when it ends"
# Values that are right already are not written: a file that would not take them must not keep the record for ever.
_GUARD = """\
trap '' HUP TERM INT
while read -r _; do :; done
record=$1 left=
shift
while [ $# -gt 1 ]; do
    now=
    IFS= read -r now <"$1"
    [ "$now" = "$2" ] || printf '%s\\n' "$2" >"$1" || left=yes
    shift 2
done
[ -n "$left" ] || rm -f -- "$record"
"""


class Governors:
    """Sets them for a benchmark and gives them back. One agent of a ROOT holds them at a time."""

    def __init__(self, root: str, under: str) -> None:
        self._root = root
        self._under = under
        self._before: Optional[Dict[str, str]] = None
        self._lock = -1
        self._guard: Optional[subprocess.Popen[bytes]] = None

    def perform(self) -> Dict[str, object]:
        """Set all of them, or none; return the fields of a governors line. Again: what holds already."""
        refused, before = None, self._before
        if before is None:
            heal(self._root, self._under)
            lock = _locked(self._root)  # before they are read: a guard may be giving them back right now
            wanted = self._wanted()
            before = {path: read(path) or "" for path in wanted}
            refused = _ANOTHER if lock is None else self._set(wanted, before, lock)
        return {"before": before, "now": {path: read(path) or "" for path in before}, "refused": refused}

    def restore(self) -> None:
        """Give back what was set. It is done when this returns, by the guard or, where that is gone, from here."""
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            os.close(self._lock)
            with suppress(subprocess.TimeoutExpired):  # it holds the lock then, so heal leaves the record to it
                self._guard.wait(_PATIENCE_S)
            heal(self._root, self._under)
        self._guard = self._before = None

    def _wanted(self) -> Dict[str, str]:
        """Return path to value: what makes this board fast and steady, of what it has."""
        wanted = dict.fromkeys(found(self._under, _BOOST), "1")
        wanted.update(dict.fromkeys(found(self._under, _CPU), "performance"))
        for path in found(self._under, _BPU):
            if "performance" in _offered(path, "available_governors"):
                wanted[path] = "performance"
        return wanted

    def _unfit(self, wanted: Dict[str, str], before: Dict[str, str]) -> Optional[str]:
        """Return why this board cannot be made fast and steady, before anything is touched."""
        if not wanted:
            return "this board has no governor"
        for path in wanted:
            offered = _offered(path, "scaling_available_governors")
            if path.endswith("/scaling_governor") and offered and "performance" not in offered:
                return f"{path} offers {', '.join(offered)}, not performance"
            if not before[path]:
                return f"{path} cannot be read"
        return None

    def _set(self, wanted: Dict[str, str], before: Dict[str, str], lock: int) -> Optional[str]:
        """Return why not; nothing is changed then, and the lock is given back."""
        why = self._unfit(wanted, before)
        if why is not None:
            os.close(lock)
            return why
        changes = {path: value for path, value in wanted.items() if before[path] != value}
        self._hold({path: before[path] for path in changes}, lock)
        for path, value in changes.items():
            why = _written(path, value)
            if why is not None:
                self.restore()
                return why
        self._before = before
        return None

    def _hold(self, before: Dict[str, str], lock: int) -> None:
        """Write the record, then start the guard. Until both stand, nothing is changed: half a record means nothing."""
        record = _record(self._root)
        try:
            with open(record, "w") as stream:
                json.dump({"boot": boot(self._under), "before": before}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            back = [word for path in reversed(list(before)) for word in (path, before[path])]
            self._guard = subprocess.Popen(
                ["sh", "-c", _GUARD, "bpudeploy-guard", record, *back],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[lock],
                start_new_session=True,
                cwd="/",
            )
            self._lock = lock
        except OSError:
            os.close(lock)
            if os.path.exists(record):
                os.unlink(record)
            raise


def heal(root: str, under: str) -> List[str]:
    """Give back what an agent that is gone left set in this boot; return the files. Of another boot, nothing is set.

    While the guard of that record lives it is left to it, after some patience.
    """
    record = _record(root)
    if not os.path.exists(record):
        return []
    lock = _locked(root)
    if lock is None:
        return []
    try:
        before = _read_record(record, under)
        back = [path for path in reversed(list(before)) if read(path) != before[path]]
        failed = [path for path in back if _written(path, before[path]) is not None]
        if not failed and os.path.exists(record):
            os.unlink(record)
        return [path for path in back if path not in failed]
    finally:
        os.close(lock)


def _read_record(record: str, under: str) -> Dict[str, str]:
    """Return path to old value of this boot. Only governors count: the record is no order to write anywhere."""
    known = {path for pattern in (_BOOST, _CPU, _BPU) for path in found(under, pattern)}
    try:
        said = json.loads(read(record) or "")
        if said["boot"] != boot(under):
            return {}
        return {path: str(value) for path, value in said["before"].items() if path in known}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # half a record was written before anything was changed


def _record(root: str) -> str:
    return os.path.join(root, "governors.json")


def _offered(path: str, beside: str) -> List[str]:
    return (read(os.path.join(os.path.dirname(path), beside)) or "").split()


def _written(path: str, value: str) -> Optional[str]:
    """Write a value; return why it does not stand there now."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)  # never O_CREAT: sysfs has the file, or the board has not
        try:
            os.write(descriptor, value.encode() + b"\n")
        finally:
            os.close(descriptor)
    except PermissionError as error:
        return f"{path}: {error.strerror}; setting governors takes root"
    except OSError as error:
        return f"{path}: {error.strerror}"
    now = read(path)
    return None if now == value else f"{path} says {now} after {value} was written"


def _locked(root: str) -> Optional[int]:
    """Return a descriptor that holds ROOT's lock; None while another's does. ROOT itself is locked: no file is left."""
    lock = os.open(root, os.O_RDONLY)
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except OSError:
            if time.monotonic() > until:
                os.close(lock)
                return None
            time.sleep(0.01)
