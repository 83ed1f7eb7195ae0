"""Set the governors for a benchmark, and restore them however the agent ends.

Before the first change, the old values are saved to ROOT/governors.json, and a guard is started: a shell in its own
session that waits on a pipe from this process. When the pipe closes, it restores the old values and removes the file.
If the guard was killed, ``restore_leftover`` does that: when the worker ends, when the supervisor ends, or in the next
agent. The guard inherits a lock on ROOT, which shows that it is still alive.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from contextlib import suppress
from typing import Dict, List, Optional

from .board_files import boot_id, find, read

_BOOST = "/sys/devices/system/cpu/cpufreq/boost"
_CPU = "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor"
_BPU = "/sys/devices/system/bpu/bpu*/devfreq/*/governor"
_LOCK_TIMEOUT_S = 1.0
_LOCKED = "another agent has set this board's governors; it restores them when it ends"
# Values that are already right are not written: a read-only file must not keep the record forever.
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
    """Sets and restores the governors. Only one agent per ROOT can set them at a time."""

    def __init__(self, root: str, under: str) -> None:
        self._root = root
        self._under = under
        self._before: Optional[Dict[str, str]] = None
        self._lock = -1
        self._guard: Optional[subprocess.Popen[bytes]] = None

    def perform(self) -> Dict[str, object]:
        """Set all governors or none; return the fields of a governors line. Later calls report the current values."""
        refused, before = None, self._before
        if before is None:
            restore_leftover(self._root, self._under)
            lock = _lock(self._root)  # before reading: a guard may be restoring them
            wanted = self._wanted()
            before = {path: read(path) or "" for path in wanted}
            refused = _LOCKED if lock is None else self._set(wanted, before, lock)
        return {"before": before, "now": {path: read(path) or "" for path in before}, "refused": refused}

    def restore(self) -> None:
        """Restore the old values before returning: by the guard, or directly if that was killed."""
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            os.close(self._lock)
            with suppress(subprocess.TimeoutExpired):  # the guard still has the lock and will restore them
                self._guard.wait(_LOCK_TIMEOUT_S)
            restore_leftover(self._root, self._under)
        self._guard = self._before = None

    def _wanted(self) -> Dict[str, str]:
        """Return path to value for the fastest and most stable clocks that this board supports."""
        wanted = dict.fromkeys(find(self._under, _BOOST), "1")
        wanted.update(dict.fromkeys(find(self._under, _CPU), "performance"))
        for path in find(self._under, _BPU):
            if "performance" in _offered(path, "available_governors"):
                wanted[path] = "performance"
        return wanted

    def _unsupported(self, wanted: Dict[str, str], before: Dict[str, str]) -> Optional[str]:
        """Return why the governors cannot be set, before changing anything."""
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
        """Set the values. On failure, return the reason, with nothing changed and the lock released."""
        why = self._unsupported(wanted, before)
        if why is not None:
            os.close(lock)
            return why
        changes = {path: value for path, value in wanted.items() if before[path] != value}
        self._start_guard({path: before[path] for path in changes}, lock)
        for path, value in changes.items():
            why = _write(path, value)
            if why is not None:
                self.restore()
                return why
        self._before = before
        return None

    def _start_guard(self, before: Dict[str, str], lock: int) -> None:
        """Write the record, then start the guard. Nothing is changed before: an incomplete record can be ignored."""
        record = _record(self._root)
        try:
            with open(record, "w") as stream:
                json.dump({"boot": boot_id(self._under), "before": before}, stream)
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


def restore_leftover(root: str, under: str) -> List[str]:
    """Restore the governors that a killed agent left set in this boot; return their files.

    Does nothing if a guard is still alive after a short wait.
    """
    record = _record(root)
    if not os.path.exists(record):
        return []
    lock = _lock(root)
    if lock is None:
        return []
    try:
        before = _read_record(record, under)
        changed = [path for path in reversed(list(before)) if read(path) != before[path]]
        failed = [path for path in changed if _write(path, before[path]) is not None]
        if not failed and os.path.exists(record):
            os.unlink(record)
        return [path for path in changed if path not in failed]
    finally:
        os.close(lock)


def _read_record(record: str, under: str) -> Dict[str, str]:
    """Return path to old value, if of this boot. Paths other than governors are ignored: they must not be written."""
    known = {path for pattern in (_BOOST, _CPU, _BPU) for path in find(under, pattern)}
    try:
        saved = json.loads(read(record) or "")
        if saved["boot"] != boot_id(under):
            return {}
        return {path: str(value) for path, value in saved["before"].items() if path in known}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # incomplete: nothing had been changed yet


def _record(root: str) -> str:
    return os.path.join(root, "governors.json")


def _offered(path: str, beside: str) -> List[str]:
    return (read(os.path.join(os.path.dirname(path), beside)) or "").split()


def _write(path: str, value: str) -> Optional[str]:
    """Write a value and read it back; return the reason on failure."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)  # without O_CREAT: sysfs files exist or are unsupported
        try:
            os.write(descriptor, value.encode() + b"\n")
        finally:
            os.close(descriptor)
    except PermissionError as error:
        return f"{path}: {error.strerror}; setting governors requires root"
    except OSError as error:
        return f"{path}: {error.strerror}"
    now = read(path)
    return None if now == value else f"{path} is {now} after writing {value}"


def _lock(root: str) -> Optional[int]:
    """Lock the folder ROOT and return its descriptor; None if it stays locked by another process."""
    lock = os.open(root, os.O_RDONLY)
    until = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except OSError:
            if time.monotonic() > until:
                os.close(lock)
                return None
            time.sleep(0.01)
