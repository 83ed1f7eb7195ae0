# Run on the board as: sh -c THIS facts ROOT PYTHON UNDER TOOL... Read-only; does not need root privileges.
# Prints sections: "@name", then each line of output after "|". UNDER is "" on a board, a folder prefix in tests.
root=$1 python=$2 under=$3
shift 3
PATH=$PATH:$under/usr/hobot/bin:/usr/sbin:/sbin

say() {
    echo "@$1"
    shift
    "$@" 2>/dev/null </dev/null | tr -d '\000\r' | while IFS= read -r line || [ -n "$line" ]; do
        printf '|%s\n' "$line"
    done
}
tool() { # run a vendor tool, if installed, for up to 10 s
    command -v "$1" >/dev/null || return 0
    if command -v timeout >/dev/null; then timeout 10 "$@"; else "$@"; fi
}
hardware() { tool rdkos_info -b | head -n 40; }
tools() {
    for name; do
        command -v "$name" >/dev/null && echo "$name"
    done
}
place() { # ROOT or its nearest existing parent
    found=$root
    while [ ! -e "$found" ]; do found=$(dirname -- "$found"); done
    echo "$found"
}
writable() { [ -d "$(place)" ] && [ -w "$(place)" ] && echo yes || echo no; }
space() { df -Pk -- "$(place)"; }
pythons() {
    "$python" -c '
import sys
print("python", sys.version.split()[0])
from importlib.metadata import PackageNotFoundError, version
for name in ("numpy", "onnxruntime", "hobot-dnn", "hobot_dnn_rdkx5", "hbm_runtime"):
    try:
        print(name, version(name))
    except PackageNotFoundError:
        pass'
}
reading() { # NAME FILE: a switched-off sensor has no value
    value=$(cat "$2") && [ -n "$value" ] && echo "$1=$value"
}
temperatures() {
    for zone in "$under"/sys/class/thermal/thermal_zone*; do
        [ -r "$zone/temp" ] && reading "$(cat "$zone/type" || echo "${zone##*/}")" "$zone/temp"
    done
    for sensor in "$under"/sys/class/hwmon/hwmon*/temp*_input; do
        [ -r "$sensor" ] || continue
        label=${sensor%_input}_label
        reading "$([ -r "$label" ] && cat "$label" || echo "${sensor#"$under"/sys/class/hwmon/}")" "$sensor"
    done
}
governors() {
    for file in "$under"/sys/devices/system/cpu/cpufreq/policy*/scaling_governor; do
        [ -r "$file" ] && { of=${file%/*}; reading "cpu ${of##*/}" "$file"; }
    done
    for file in "$under"/sys/devices/system/bpu/bpu*/devfreq/*/governor; do
        [ -r "$file" ] && { of=${file%/*}; reading "bpu ${of##*/}" "$file"; }
    done
}

say user id -un
say host uname -n
say machine uname -m
say kernel uname -r
say clock date +%s
say soc_name cat "$under/sys/class/boardinfo/soc_name"
say model cat "$under/proc/device-tree/model"
say soc_uid tool hrut_socuid
say version cat "$under/etc/version"
say os grep ^PRETTY_NAME= "$under/etc/os-release"
say rdkos hardware
say runtime command -v hrt_model_exec
say runtime_version tool hrt_model_exec -v
say libdnn ls -d "$under"/usr/hobot/lib/libdnn.so* "$under"/usr/lib/libdnn.so*
say memory grep ^MemTotal: "$under/proc/meminfo"
say tools tools "$@"
say place place
say writable writable
say space space
say python pythons
say temperatures temperatures
say governors governors
echo "@end"
