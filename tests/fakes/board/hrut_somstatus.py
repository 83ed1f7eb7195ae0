"""The fake of ``hrut_somstatus``: one report in its board's shape. X5 as newer images have it: MHz and a stray -e."""

from __future__ import annotations

import sys

from .world import world

_X3 = """\
=====================1=====================
temperature-->
        CPU      : 61.3 (C)
cpu frequency-->
              min       cur     max
        cpu0: 240000    1200000 1200000
        cpu1: 240000    1200000 1200000
bpu status information---->
             min        cur             max             ratio
        bpu0: 400000000 1000000000      1000000000      37
        bpu1: 400000000 1000000000      1000000000      0
"""
_X5 = """\
=====================1=====================
temperature-->
        DDR      : 59.5 (C)
        BPU      : 58.5 (C)
        CPU      : 58.5 (C)
cpu frequency-->
-e            min(M)    cur(M)  max(M)
-e      cpu0: 300       1500    1500
-e      cpu1: 300       1200    1500
bpu status information---->
-e            min(M)    cur(M)  max(M)  ratio
-e      bpu0: 500       1000    1000    12
ddr frequency information---->
-e            min(M)    cur(M)  max(M)
-e      ddr:  266       4266    4266
"""
_S100 = """\
=====================1=====================
temperature-->
\tpvt_cmn_pvtc1_t1 : 57.031 (C)
\tpvt_bpu_pvtc1_t1 : 57.047 (C)
voltage-->
\tVDD_CPU  : 774.0 (mV)
\tVDD_BPU  : 848.0 (mV)
cpu frequency-->
\t\t\tmin\tcur\tmax
\tpolicy0:\t1125000\t1500000\t1500000
\tpolicy4:\t1125000\t1500000\t1500000
bpu status information---->
\t\tratio
\tbpu0: \t98
"""


def main(argv: list[str]) -> int:
    """Print one report; -n and -d are taken, and -n must be 1."""
    flags = dict(zip(argv[::2], argv[1::2], strict=False))
    if not set(flags) <= {"-n", "-d"} or flags.get("-n", "1") != "1":
        print("Usage: hrut_somstatus [-n COUNT] [-d SEC]", file=sys.stderr)
        return 1
    print({"x3": _X3, "x5": _X5, "s100": _S100}[world().board], end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
