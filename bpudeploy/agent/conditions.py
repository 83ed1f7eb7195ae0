"""What the board says of itself, once (facts) and while it measures (conditions); what it does not say is left out."""

from __future__ import annotations

import os
import platform
import re
import resource
import time
from typing import Any, Dict, List, Optional, Tuple

from . import somstatus
from .paths import found, number, own_or_real, read
from .tied import told

_CPU = "/sys/devices/system/cpu/cpufreq/policy*"
_BPU = "/sys/devices/system/bpu/bpu*"
_BUSY = (0, 1, 2, 5, 6, 7)  # of /proc/stat's "cpu": user, nice, system, irq, softirq, steal; not idle, not iowait
_WHILE_S = 0.5


def facts(under: str) -> Dict[str, Any]:
    """Return what stays as it is while the board runs; None for what it does not tell."""
    info, memory = read("/proc/cpuinfo") or "", read("/proc/meminfo") or ""
    release = dict(line.split("=", 1) for line in (read(under + "/etc/os-release") or "").splitlines() if "=" in line)
    cpu = [line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith(("model name", "Hardware"))]
    total = [int(line.split()[1]) for line in memory.splitlines() if line.startswith("MemTotal:")]
    return {
        "hostname": platform.node(),
        "machine": platform.machine(),
        "cpu": cpu[0] if cpu else read(under + "/proc/device-tree/model"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": total[0] * 1024 // 1000000 if total else None,
        "os": release.get("PRETTY_NAME", platform.system()).strip('"'),
        "python": platform.python_version(),
        "board_id": _serial() or read(under + "/etc/machine-id"),
    }


def _serial() -> Optional[str]:
    """Return the SoC's serial number, where the vendor's tool tells it: all else is alike on boards of one image."""
    serial = re.search(r"^(?:soc_uid:\s*)?(?:0x)?([0-9a-fA-F]{8,})\s*$", told("hrut_socuid") or "", re.MULTILINE)
    return serial.group(1).lower() if serial else None


class Conditions:
    """Reads them, a few milliseconds each time: never inside a timed span. It remembers when it last did.

    Args:
        supervisor: its process, whose work is ours and not other processes'.
    """

    def __init__(self, under: str, supervisor: int) -> None:
        self._under = under
        self._supervisor = supervisor
        self._last: Optional[Tuple[float, float]] = None
        self._tool_tells = True

    def read(self) -> Dict[str, Any]:
        """Return the fields of a conditions line."""
        load = (read(own_or_real(self._under, "/proc/loadavg")) or "").split()
        return {
            "t": time.monotonic(),
            **self._sensors(),
            "governors": governors(self._under),
            "load_1min": float(load[0]) if load else os.getloadavg()[0],
            "others_cores": self._others(),
        }

    def _sensors(self) -> Dict[str, Dict[str, Any]]:
        sensors: Dict[str, Dict[str, Any]] = {
            "temperatures_c": _temperatures(self._under),
            "cpu_khz": _cpu(self._under),
            "bpu_hz": _bpu(self._under),
            "bpu_busy": _of({os.path.basename(bpu): number(bpu + "/ratio") for bpu in found(self._under, _BPU)}),
        }
        if self._tool_tells and not any(sensors.values()):  # a kernel with other paths: the vendor's tool may know them
            try:
                return {**sensors, **somstatus.parse(told("hrut_somstatus", "-n", "1") or "")}
            except ValueError:
                self._tool_tells = False
        return sensors

    def _others(self) -> Optional[float]:
        """Return how many cores other processes kept busy since a reading that lies some while back; None if none does.

        The kernel counts in ticks of 10 ms: over a shorter while they tell little. The next reading covers it, too.
        """
        stat = (read(own_or_real(self._under, "/proc/stat")) or "").split("\n")[0].split()
        if stat[:1] != ["cpu"]:
            return None
        ticks = [int(tick) for tick in stat[1:]]
        busy = sum(ticks[i] for i in _BUSY if i < len(ticks)) / os.sysconf("SC_CLK_TCK")
        now, others = time.monotonic(), busy - self._own()
        before = self._last
        if before is not None and now - before[0] < _WHILE_S:
            return None
        self._last = (now, others)
        return None if before is None else max(0.0, (others - before[1]) / (now - before[0]))

    def _own(self) -> float:
        """Return the CPU seconds of this process, of its children that ended, and of the supervisor."""
        total = 0.0
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(who)
            total += usage.ru_utime + usage.ru_stime
        stat = (read(f"/proc/{self._supervisor}/stat") or "").rpartition(")")[2].split()
        return total + sum(int(tick) for tick in stat[11:13]) / os.sysconf("SC_CLK_TCK")


def _of(values: Dict[str, Any]) -> Dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _temperatures(under: str) -> Dict[str, float]:
    """Return degrees by sensor; a name that two sensors share is followed by where the second one is."""
    read_at: List[Tuple[str, str]] = []
    for zone in found(under, "/sys/class/thermal/thermal_zone*"):
        read_at.append((read(zone + "/type") or os.path.basename(zone), zone + "/temp"))
    for sensor in found(under, "/sys/class/hwmon/hwmon*/temp*_input"):
        place = sensor[len(under + "/sys/class/hwmon/") :]
        read_at.append((read(sensor[: -len("_input")] + "_label") or place, sensor))
    celsius: Dict[str, float] = {}
    for name, path in read_at:
        thousandths = number(path)
        if thousandths is not None:
            place = "/".join(path.split("/")[-2:])
            celsius[name if name not in celsius else f"{name} {place}"] = thousandths / 1000
    return celsius


def _cpu(under: str) -> Dict[str, Dict[str, int]]:
    clocks = {}
    for policy in found(under, _CPU):
        now = number(policy + "/scaling_cur_freq")
        most = number(policy + "/cpuinfo_max_freq") or number(policy + "/scaling_max_freq")
        if now is not None and most is not None:
            clocks[os.path.basename(policy)] = {"cur": now, "max": most}
    return clocks


def _bpu(under: str) -> Dict[str, Dict[str, int]]:
    clocks = {}
    for bpu in found(under, _BPU):
        for device in found(bpu, "/devfreq/*")[:1]:
            now = number(device + "/cur_freq")
            offered = [int(rate) for rate in (read(device + "/available_frequencies") or "").split() if rate.isdigit()]
            most = max(offered) if offered else number(device + "/max_freq")
            if now is not None and most is not None:
                clocks[os.path.basename(bpu)] = {"cur": now, "max": most}
    return clocks


def governors(under: str) -> Dict[str, str]:
    """Return each governor that the board has, as ``cpu policy0`` or ``bpu bpu0``."""
    names: Dict[str, Optional[str]] = {}
    for policy in found(under, _CPU):
        names["cpu " + os.path.basename(policy)] = read(policy + "/scaling_governor")
    for bpu in found(under, _BPU):
        for file in found(bpu, "/devfreq/*/governor")[:1]:
            names["bpu " + os.path.basename(bpu)] = read(file)
    return _of(names)
