"""Fake /sys, /proc, /etc and tools, in the formats of the vendors' documents; not recorded on boards."""

from __future__ import annotations

from pathlib import Path

FILES = {
    "x5": {
        "sys/class/boardinfo/soc_name": "X5\n",
        "proc/device-tree/model": "D-Robotics RDK X5 V1.0\0",
        "etc/version": "3.2.1\n",
        "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.4 LTS"\n',
        "proc/meminfo": "MemTotal:        8145472 kB\nMemFree:  1 kB\n",
        "sys/class/hwmon/hwmon0/temp1_input": "52100\n",
        "sys/class/hwmon/hwmon0/temp1_label": "DDR\n",
        "sys/class/hwmon/hwmon0/temp2_input": "",  # the BPU's, which is switched off
        "sys/class/hwmon/hwmon0/temp3_input": "50400\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "schedutil\n",
        "sys/devices/system/bpu/bpu0/devfreq/3a000000.bpu/governor": "performance\n",
        "usr/hobot/lib/libdnn.so": "",
        "usr/hobot/bin/hrut_socuid": "#!/bin/sh\necho soc_uid: 0x2106271200a1b2c3\n",
        "usr/hobot/bin/hrt_model_exec": "#!/bin/sh\n"
        '[ "$1" = -v ] || exit 1\n'
        "echo '[BPU_PLAT]BPU Platform Version(1.3.6)! soc info(x5)'\n"
        "echo '[HBRT] set log level as 0. version = 3.15.55.0'\n"
        "echo '[DNN] Runtime version = 1.24.5_(3.15.55 HBRT)'\n",
    },
    "s100": {
        "sys/class/boardinfo/soc_name": "s100\n",
        "etc/version": "4.0.5\n",
        "etc/os-release": "PRETTY_NAME=Ubuntu\n",
        "proc/meminfo": "MemTotal:       11914240 kB\n",
        "sys/class/thermal/thermal_zone0/type": "pvt_cmn_pvtc1_t1\n",
        "sys/class/thermal/thermal_zone0/temp": "38565\n",
        "sys/class/thermal/thermal_zone4/type": "pvt_bpu_pvtc1_t1\n",
        "sys/class/thermal/thermal_zone4/temp": "91000\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "performance\n",
        "sys/devices/system/cpu/cpufreq/policy4/scaling_governor": "performance\n",
        "usr/hobot/bin/hrut_socuid": "#!/bin/sh\necho 0123456789abcdef0123456789abcdef\n",
        "usr/hobot/bin/rdkos_info": "#!/bin/sh\n"
        "echo '================ RDK System Information Collection ================'\necho\n"
        "echo '[Hardware Model]:'\nprintf '\\tD-Robotics RDK S100 MCB V1p0 (Board Id = 0x6A84)\\n'\n",
    },
    "x3": {  # an old image: no soc_name, no runtime
        "etc/version": "2.1.0\n",
        "etc/os-release": 'PRETTY_NAME="Ubuntu 20.04 LTS"\n',
        "proc/meminfo": "MemTotal: 3980000 kB\n",
        "sys/class/thermal/thermal_zone0/temp": "61300\n",
    },
}


def write_fake_files(folder: Path, name: str) -> str:
    """Write a board's files under ``folder`` and return it, for ``read_facts(under=...)``."""
    for path, text in FILES[name].items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        if "/bin/" in path:
            file.chmod(0o755)
    return str(folder)
