"""The agent's command line: ``python3 AGENT.zip --root ROOT``; commands on stdin, JSON lines on stdout."""

from __future__ import annotations

import argparse
import sys


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True, help="bpudeploy's folder on the board")
    parser.add_argument("--under", default="", help="folder prefix of /sys, /proc and /etc, for tests")
    parser.add_argument("--idle", type=float, default=120.0, help="exit after this many seconds without a command")
    parser.add_argument("--worker", type=int, help="internal: run as the worker of the supervisor with this PID")
    args = parser.parse_args()
    if args.worker is not None:
        from .worker import serve  # keeps numpy and runtimes out of the supervisor

        serve(args.root, args.under, args.worker)
    else:
        from .supervisor import supervise

        sys.exit(supervise(args.root, args.under, args.idle))
