"""How `boards` is printed, and the one question that it asks."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from bpudeploy.digest import short

if TYPE_CHECKING:
    from bpudeploy.boards.doctor import BoardFinding
    from bpudeploy.boards.facts import Facts
    from bpudeploy.boards.trust import OfferedKey
    from bpudeploy.effects.reserve import Reservation
    from bpudeploy.results.boards import Seen

_WIDTH = 118


def show_list(seen: Sequence[Seen], as_json: bool) -> None:
    """Print the boards of this project's runs."""
    if as_json:
        print(json.dumps([one.model_dump(mode="json") for one in seen]))
        return
    if not seen:
        print("no run in this folder has reached a board over SSH yet: `bpudeploy run R.yaml --board USER@HOST`")
        return
    wide = max(len(one.address) for one in seen)
    for one in seen:
        print(
            f"  {one.address:<{wide}}  {one.target:<10} {one.started[:16]}  {one.recipe}, release {short(one.release)}"
        )
    print("  the last run on each, as found in .bpudeploy/runs; nobody was asked just now")


def show_findings(address: str, findings: Sequence[BoardFinding], as_json: bool) -> None:
    """Print each finding, with its repair."""
    if as_json:
        print(json.dumps({"board": address, "findings": [asdict(one) for one in findings]}))
        return
    for one in findings:
        print(_hung(f"  {one.state:<8} {one.about:<12} ", one.found))
        if one.repair:
            print(_hung(f"  {'':<8} {'':<12} fix: ", one.repair))
    errors, warnings = (sum(f.state == state for f in findings) for state in ("error", "warning"))
    print(f"{address}: {errors} to repair, {warnings} to know of")


def show_facts(address: str, facts: Facts, as_json: bool) -> None:
    """Print what a board says of itself; a missing fact is a dash."""
    if as_json:
        print(json.dumps({"board": address, **asdict(facts)}))
        return
    for name, value in asdict(facts).items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {one}" for key, one in value.items())
        elif isinstance(value, tuple | list):
            value = ", ".join(value)
        print(_hung(f"  {name:<16} ", "-" if value in (None, "") else str(value)))


def show_offer(offered: OfferedKey) -> None:
    """Print the key that a board offers, and the one that is known where that is another; on standard error."""
    for one in offered.known:
        print(f"known    {one}", file=sys.stderr)
    print(f"offered  {offered.kind} {offered.fingerprint}  by {offered.board}", file=sys.stderr)
    if offered.known:
        print("The keys differ: another machine answers, or the board was installed anew.", file=sys.stderr)
    print("Compare on the board's own screen: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub", file=sys.stderr)


def answer() -> str:
    """Ask whether the key is the board's; anything but yes, or the fingerprint, is no."""
    print("Is it the board's key (yes, or paste its fingerprint)? ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def show_trusted(offered: OfferedKey, as_json: bool) -> None:
    """Print which key is trusted, and where it is written."""
    if as_json:
        told = {"board": offered.board, "name": offered.name, "kind": offered.kind, "fingerprint": offered.fingerprint}
        print(json.dumps({**told, "before": offered.status, "file": str(offered.file)}))
        return
    already = "already " if offered.status == "trusted" else ""
    print(
        f"{offered.board}: {offered.kind} {offered.fingerprint} is {already}trusted ({offered.name} in {offered.file})"
    )


def _hung(head: str, text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)


def show_reservation(address: str, held: Reservation, as_json: bool) -> None:
    """Print until when a board is ours."""
    if as_json:
        print(json.dumps({**asdict(held), "until": held.until.isoformat()}))
        return
    print(f"{address} is reserved for {held.owner} until {held.until:%Y-%m-%d %H:%M:%S} UTC, by its clock: {held.why}")


def show_released(address: str, was: Reservation | None, as_json: bool) -> None:
    """Print what was given back."""
    if as_json:
        print(json.dumps({"released": was is not None, "owner": was.owner if was else None}))
        return
    print(f"{address}: the reservation of {was.owner} is given back" if was else f"{address} was not reserved")
