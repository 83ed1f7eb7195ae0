"""What the board reports: facts, once, and conditions, between measurements. Missing values are left out."""

from __future__ import annotations

import os
import platform
import re
import resource
import time
from typing import Any, Dict, List, Optional, Tuple

from . import somstatus
from .board_files import fake_or_real, find, read, read_int
from .processes import tool_output

_CPU = "/sys/devices/system/cpu/cpufreq/policy*"
_BPU = "/sys/devices/system/bpu/bpu*"
_BUSY = (0, 1, 2, 5, 6, 7)  # columns of "cpu" in /proc/stat: all but idle, iowait and the guests
_MIN_INTERVAL_S = 0.5


def facts(under: str) -> Dict[str, Any]:
    """Return what does not change while the board runs; None if unknown."""
    kilobytes = _search(r"^MemTotal:\s*(\d+)", read("/proc/meminfo"))
    # all but the SoC's serial number, from the vendor's tool, is alike on boards with the same image
    serial = _search(r"^(?:soc_uid:\s*)?(?:0x)?([0-9a-fA-F]{8,})\s*$", tool_output("hrut_socuid"))
    return {
        "hostname": platform.node(),
        "machine": platform.machine(),
        "cpu": _search(r"^(?:model name|Hardware).*?:[ \t]*(.*?)\s*$", read("/proc/cpuinfo"))
        or read(under + "/proc/device-tree/model"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": int(kilobytes) * 1024 // 1000000 if kilobytes else None,
        "os": _search(r'^PRETTY_NAME="*(.*?)"*$', read(under + "/etc/os-release")) or platform.system(),
        "python": platform.python_version(),
        "board_id": serial.lower() if serial else read(under + "/etc/machine-id"),
    }


def _search(pattern: str, text: Optional[str]) -> Optional[str]:
    """Return the group of the first line that matches, or None."""
    match = re.search(pattern, text or "", re.MULTILINE)
    return match.group(1) if match else None


class Conditions:
    """Reads the conditions, which takes some milliseconds: never call it inside a timed span.

    Args:
        supervisor: PID whose CPU time counts as the agent's own.
    """

    def __init__(self, under: str, supervisor: int) -> None:
        self._under = under
        self._supervisor = supervisor
        self._last: Optional[Tuple[float, float]] = None
        self._try_tool = True

    def read(self) -> Dict[str, Any]:
        """Return the fields of a conditions line."""
        load = (read(fake_or_real(self._under, "/proc/loadavg")) or "").split()
        return {
            "t": time.monotonic(),
            **self._sensors(),
            "governors": governors(self._under),
            "load_1min": float(load[0]) if load else os.getloadavg()[0],
            "others_cores": self._others_cores(),
        }

    def _sensors(self) -> Dict[str, Dict[str, Any]]:
        sensors: Dict[str, Dict[str, Any]] = {
            "temperatures_c": _temperatures(self._under),
            "cpu_khz": _cpu(self._under),
            "bpu_hz": _bpu(self._under),
            "bpu_busy": _known({os.path.basename(bpu): read_int(bpu + "/ratio") for bpu in find(self._under, _BPU)}),
        }
        if self._try_tool and not any(sensors.values()):  # a kernel with other paths: ask the vendor's tool
            try:
                return {**sensors, **somstatus.parse(tool_output("hrut_somstatus", "-n", "1") or "")}
            except ValueError:
                self._try_tool = False
        return sensors

    def _others_cores(self) -> Optional[float]:
        """Return how many cores other processes kept busy since the previous reading; None if that was just before.

        The kernel counts in ticks of 10 ms, too coarse for short intervals; the next reading then covers both.
        """
        stat = (read(fake_or_real(self._under, "/proc/stat")) or "").split("\n")[0].split()
        if stat[:1] != ["cpu"]:
            return None
        ticks = [int(tick) for tick in stat[1:]]
        busy = sum(ticks[i] for i in _BUSY if i < len(ticks)) / os.sysconf("SC_CLK_TCK")
        now, others = time.monotonic(), busy - self._own_cpu_s()
        before = self._last
        if before is not None and now - before[0] < _MIN_INTERVAL_S:
            return None
        self._last = (now, others)
        return None if before is None else max(0.0, (others - before[1]) / (now - before[0]))

    def _own_cpu_s(self) -> float:
        """Return the CPU seconds of this process, its ended children and the supervisor."""
        usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        total = sum(usage.ru_utime + usage.ru_stime for usage in usages)
        stat = (read(f"/proc/{self._supervisor}/stat") or "").rpartition(")")[2].split()
        return total + sum(int(tick) for tick in stat[11:13]) / os.sysconf("SC_CLK_TCK")


def _known(values: Dict[str, Any]) -> Dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _temperatures(under: str) -> Dict[str, float]:
    """Return degrees by sensor; the path is appended to a name that is taken."""
    sensors: List[Tuple[str, str]] = []
    for zone in find(under, "/sys/class/thermal/thermal_zone*"):
        sensors.append((read(zone + "/type") or os.path.basename(zone), zone + "/temp"))
    for sensor in find(under, "/sys/class/hwmon/hwmon*/temp*_input"):
        label = read(sensor[: -len("_input")] + "_label")
        sensors.append((label or sensor[len(under + "/sys/class/hwmon/") :], sensor))
    celsius: Dict[str, float] = {}
    for name, path in sensors:
        thousandths = read_int(path)
        if thousandths is not None:
            celsius[name if name not in celsius else f"{name} {'/'.join(path.split('/')[-2:])}"] = thousandths / 1000
    return celsius


def _cpu(under: str) -> Dict[str, Dict[str, int]]:
    clocks = {}
    for policy in find(under, _CPU):
        current = read_int(policy + "/scaling_cur_freq")
        maximum = read_int(policy + "/cpuinfo_max_freq") or read_int(policy + "/scaling_max_freq")
        if current is not None and maximum is not None:
            clocks[os.path.basename(policy)] = {"cur": current, "max": maximum}
    return clocks


def _bpu(under: str) -> Dict[str, Dict[str, int]]:
    clocks = {}
    for bpu in find(under, _BPU):
        for device in find(bpu, "/devfreq/*")[:1]:
            current = read_int(device + "/cur_freq")
            rates = [int(rate) for rate in (read(device + "/available_frequencies") or "").split() if rate.isdigit()]
            maximum = max(rates) if rates else read_int(device + "/max_freq")
            if current is not None and maximum is not None:
                clocks[os.path.basename(bpu)] = {"cur": current, "max": maximum}
    return clocks


def governors(under: str) -> Dict[str, str]:
    """Return the board's governors by name, ``cpu policy0`` or ``bpu bpu0``."""
    names: Dict[str, Optional[str]] = {}
    for policy in find(under, _CPU):
        names["cpu " + os.path.basename(policy)] = read(policy + "/scaling_governor")
    for bpu in find(under, _BPU):
        for file in find(bpu, "/devfreq/*/governor")[:1]:
            names["bpu " + os.path.basename(bpu)] = read(file)
    return _known(names)
