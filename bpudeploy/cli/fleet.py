"""fleet: plan a rollout, run it, look at it, steer it from another terminal, and go on with what it did not reach."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from bpudeploy.backends.registry import backend_names, load_backend
from bpudeploy.cli import render, render_fleet
from bpudeploy.deploy import Orders, build, policy_of
from bpudeploy.effects.lock import owner
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.fleet import journal, launch
from bpudeploy.fleet.events import Event, Finished, Order, Ordered, Place, Result
from bpudeploy.fleet.inventory import load_fleet, targets_of
from bpudeploy.fleet.select import labels_of
from bpudeploy.fleet.select import parse as parse_selector
from bpudeploy.fleet.webhook import WebhookError, check_url, post
from bpudeploy.fleet.work import Kit
from bpudeploy.known import Known, find_release
from bpudeploy.plan import pipeline
from bpudeploy.spec.fleet import Fleet
from bpudeploy.spec.load import is_file, load_recipe, load_target
from bpudeploy.spec.target import Target

_CODES = {
    Result.COMPLETE: ExitCode.OK,
    Result.INCOMPLETE: ExitCode.BOARD,
    Result.FAILED: ExitCode.CHECK,
    Result.ABORTED: ExitCode.INTERRUPTED,
}


def fleet(args: Namespace, store: Path) -> int:
    """Do what ``fleet WHAT`` says."""
    if args.what in ("plan", "rollout"):
        return _launch(args, store)
    if args.what == "validate":
        found = load_fleet(args.fleet)
        render_fleet.show_inventory(found, args.json)
        return ExitCode.OK
    if args.what == "list":
        render_fleet.show_rollouts([(path.parent.name, _events(path)) for path in _all()], args.json)
        return ExitCode.OK
    if args.what == "import":
        return _import(args)
    path = _one(args.rollout)
    if args.what == "status":
        return _status(path, args)
    if args.what == "report":
        return _report(path, args)
    if args.what == "reconcile":
        return _reconcile(path, args, store)
    if args.what == "resume" and journal.controller(path) is None:
        return _control(path, args, store)
    return _order(path, Order(args.what), args)


def _import(args: Namespace) -> int:
    from bpudeploy.fleet.ansible import from_ansible, read_ansible

    given = {"all": args.target} if args.target is not None else {}
    found = from_ansible(read_ansible(args.inventory), target_of=given)
    render.show_text(found.text)
    for what in found.left_out:
        render.show_warning(what)
    return ExitCode.OK


def _status(path: Path, args: Namespace) -> int:
    events = _events(path)
    render_fleet.show_status(events, args.json)
    if not args.json and not isinstance(events[-1], Finished):
        who = journal.controller(path)
        gone = "nobody controls it at this moment: `bpudeploy fleet resume` goes on"
        render.show_note(f"controlled by {who}" if who else gone, False)
    return ExitCode.OK


def _launch(args: Namespace, store: Path) -> int:
    if args.webhook is not None:
        check_url(args.webhook)
    inventory = load_fleet(args.fleet)
    targets = targets_of(inventory, args.fleet.parent)
    chosen = parse_selector(args.select, labels_of(inventory)) if args.select is not None else None
    releases = _releases(args, inventory, targets, store)
    if not releases:
        raise UsageError(
            f"nothing is built of {args.release!r} for {', '.join(sorted(targets))}",
            hint="name a recipe's file: it is built for each target; or `bpudeploy run` it first",
        )
    first, layout = launch.planned(_name(releases), inventory, chosen, releases, targets)
    kits = _kits(first.places, targets, args, store)
    if args.what == "plan" or args.dry_run:
        rows = [_row(one) for one in launch.look(first.places, kits)]
        render_fleet.show_fleet_plan(rows, args.json)
        for note in layout.notes:
            render.show_note(note, args.json)
        return ExitCode.OK
    path = journal.create(launch.ROLLOUTS, first)
    return _run(path, kits, args)


def _releases(args: Namespace, inventory: Fleet, targets: Mapping[str, Target], store: Path) -> dict[str, Known]:
    """Return what each target's boards are to serve: built now from a recipe's file, or the latest of a name."""
    if is_file(args.release):
        return {name: _built(args, name, store) for name in targets}
    found = {}
    for name in targets:
        with suppress(UsageError):
            found[name] = find_release(f"{args.release}@{name}")
    return found


def _built(args: Namespace, target: str, store: Path) -> Known:
    resolved, *more = load_recipe(Path(args.release), [*args.sets, f"target={target}"], backend_names)
    if more:
        raise UsageError(f"{args.release} is a matrix", hint="a rollout is of one recipe: --set its fields")
    backend = load_backend(resolved.target.backend)
    pipeline.require_compiler(resolved, backend)
    with render.Live(args.json) as live:
        return build(resolved, backend, pipeline.plan(resolved, backend), store, live.draw).known


def _name(releases: Mapping[str, Known]) -> str:
    return next(iter(releases.values())).manifest.name


def _row(one: launch.Looked) -> render_fleet.PlanRow:
    place = one.place
    return render_fleet.PlanRow(
        board=place.board,
        target=place.target,
        wave=None if place.skipped is not None else place.wave + 1,
        release=place.release,
        serves=one.serves,
        bytes_to_send=one.bytes_to_send,
        note=one.note,
    )


def _control(path: Path, args: Namespace, store: Path) -> int:
    """Take up a rollout whose controller is gone."""
    kits = _kits_again(journal.planned(path).places, args, store)
    journal.append(path, Ordered(at=time.time(), order=Order.RESUME, by=owner()))
    return _run(path, kits, args)


def _run(path: Path, kits: Mapping[str, Kit], args: Namespace) -> int:
    with render_fleet.FleetLive(args.json) as live:
        known = launch.control(path, kits, live.draw)
    events = _events(path)
    _write(path, events)
    render_fleet.show_status(events, args.json)
    if not args.json:
        render.show_note(f"{path.parent}/report.html has the timeline, junit.xml and summary.json lie beside it", False)
    if args.webhook is not None:
        _tell(args.webhook, events)
    assert known.result is not None
    return _CODES[known.result]


def _write(path: Path, events: Sequence[Event]) -> None:
    import json

    from bpudeploy.fleet.junit import to_junit
    from bpudeploy.fleet.page import write_rollout
    from bpudeploy.fleet.summary import to_json

    write_rollout(events, path.with_name("report.html"))
    path.with_name("junit.xml").write_text(to_junit(events), encoding="utf-8")
    path.with_name("summary.json").write_text(json.dumps(to_json(events), indent=1))


def _tell(url: str, events: Sequence[Event]) -> None:
    from bpudeploy.fleet.summary import to_json

    try:
        post(url, to_json(events))
    except WebhookError as error:
        render_fleet.show_webhook_failed(error)


def _report(path: Path, args: Namespace) -> int:
    events = _events(path)
    _write(path, events)
    render_fleet.show_status(events, args.json)
    if not args.json:
        render.show_note(f"{path.parent}/report.html", False)
    return ExitCode.OK


def _reconcile(path: Path, args: Namespace, store: Path) -> int:
    """Bring what a rollout did not reach up to date, as a rollout of its own."""
    events = _events(path)
    left = launch.left_over(events)
    if left is None:
        render.show_note(f"{path.parent.name} left nobody out", args.json)
        return ExitCode.OK
    return _run(journal.create(launch.ROLLOUTS, left), _kits_again(left.places, args, store), args)


def _kits_again(places: Sequence[Place], args: Namespace, store: Path) -> dict[str, Kit]:
    """Return what the boards of a journal need; it names all that is needed but the targets' files."""
    targets = {name: load_target(name, Path())[0] for name in {place.target for place in places}}
    return _kits(places, targets, args, store)


def _kits(places: Sequence[Place], targets: Mapping[str, Target], args: Namespace, store: Path) -> dict[str, Kit]:
    orders = Orders(args.key, args.allow_downgrade)
    return launch.kits(places, targets, lambda target: policy_of(target, orders), store)


def _order(path: Path, order: Order, args: Namespace) -> int:
    wave = args.wave - 1 if order is Order.APPROVE and args.wave is not None else None
    journal.append(path, Ordered(at=time.time(), order=order, by=owner(), wave=wave))
    who = journal.controller(path)
    told = (
        f"told {who}" if who else "nobody controls it at this moment: it counts when `bpudeploy fleet resume` goes on"
    )
    render.show_note(f"{path.parent.name}: {order}, {told}", args.json)
    return ExitCode.OK


def _all() -> tuple[Path, ...]:
    return journal.rollouts(launch.ROLLOUTS)


def _one(named: str | None) -> Path:
    found = [path for path in _all() if named is None or path.parent.name.startswith(named)]
    if not found:
        what = f"no rollout begins with {named!r}" if named else "there was no rollout yet"
        raise UsageError(what, hint="`bpudeploy fleet list` names them")
    if named is not None and len(found) > 1 and found[0].parent.name != named:
        names = ", ".join(path.parent.name for path in found[:5])
        raise UsageError(f"several rollouts begin with {named!r}: {names}", hint="give more of its name")
    return found[0]


def _events(path: Path) -> tuple[Event, ...]:
    return journal.Journal(path).read_new()
