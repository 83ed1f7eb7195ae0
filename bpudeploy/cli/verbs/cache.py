"""cache: list, collect or verify the store."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from bpudeploy.cli.arguments import add, store
from bpudeploy.cli.output import Output
from bpudeploy.digest import short
from bpudeploy.errors import ExitCode
from bpudeploy.store.gc import Entry, collect, usage, verify

EXAMPLE = "  bpudeploy cache gc --older-than 7 --dry-run"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("ls", "gc", "verify"), help="list records, remove old ones, hash every object")
    parser.add_argument("--older-than", type=float, default=30.0, metavar="DAYS", help="for gc: days without use (30)")
    parser.add_argument("--dry-run", action="store_true", help="for gc: show what would be removed")
    add(parser, "--store", "--json")


def run(args: Namespace, out: Output) -> ExitCode:
    root = store(args)
    if args.what == "ls":
        entries = usage(root)
        out.show(
            [{"step": e.record.step, "key": e.record.key, "days": e.age_days, "bytes": e.size} for e in entries],
            _listed(root, entries),
        )
        return ExitCode.OK
    if args.what == "gc":
        gone = collect(root, older_than_days=args.older_than, dry_run=args.dry_run)
        verb = "would remove" if args.dry_run else "removed"
        text = f"{verb} {gone.records} records and {gone.objects} objects, {gone.size / 1e6:.1f} MB"
        out.show({"records": gone.records, "objects": gone.objects, "bytes": gone.size}, [text])
        return ExitCode.OK
    count, damaged = verify(root)
    text = f"{count} objects read, {len(damaged)} damaged"
    lines = [f"  removed the damaged {digest}; the next run makes it again" for digest in damaged]
    out.show({"objects": count, "damaged": list(damaged)}, [*lines, text])
    return ExitCode.STAGE if damaged else ExitCode.OK


def _listed(root: Path, entries: Sequence[Entry]) -> Iterator[str]:
    for e in entries:
        yield f"  {e.record.step:<22} {short(e.record.key)} {e.size / 1e6:>9.2f} MB {e.age_days:>6.1f} days"
    objects = {o.digest: o.size for e in entries for o in e.record.outputs}
    yield f"{root}: {len(entries)} records, {len(objects)} objects, {sum(objects.values()) / 1e6:.1f} MB"
