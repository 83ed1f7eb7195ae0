"""The agent's command line: ``python3 AGENT.zip --root ROOT``; commands come in, and JSON lines go out."""

from __future__ import annotations

import argparse
import sys


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True, help="the folder on the board that is ours")
    parser.add_argument("--under", default="", help="a folder that holds the board's /sys, /proc and /etc; for tests")
    parser.add_argument("--idle", type=float, default=120.0, help="seconds without a command after which it ends")
    parser.add_argument("--worker", type=int, help="internal: be the worker of this supervisor")
    args = parser.parse_args()
    if args.worker is not None:
        from .worker import work  # numpy and runtimes stay out of the supervisor

        work(args.root, args.under, args.worker)
    else:
        from .supervisor import supervise

        sys.exit(supervise(args.root, args.under, args.idle))
