"""fleet: plan a rollout, run it, show it, steer it from another terminal, and continue with what it did not reach."""

from __future__ import annotations

import argparse
import json
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from bpudeploy.backends.registry import backend_names
from bpudeploy.cli.arguments import add, add_verb, store
from bpudeploy.cli.fleet_lines import board_line, megabytes, printable, rollout_line, wave_lines
from bpudeploy.cli.fleet_live import FleetLive
from bpudeploy.cli.output import Output, table
from bpudeploy.deployment import build, policy_of
from bpudeploy.effects.lock import owner
from bpudeploy.errors import ExitCode, UsageError
from bpudeploy.files import write_atomically
from bpudeploy.fleet import journal, launch
from bpudeploy.fleet.ansible import from_ansible, read_ansible
from bpudeploy.fleet.events import BoardPlan, CommandGiven, Event, RolloutCommand, RolloutFinished, RolloutResult
from bpudeploy.fleet.history import release_label
from bpudeploy.fleet.inventory import load_fleet, targets_of
from bpudeploy.fleet.junit import to_junit
from bpudeploy.fleet.page import write_rollout
from bpudeploy.fleet.select import labels_of
from bpudeploy.fleet.select import parse as parse_selector
from bpudeploy.fleet.summary import to_json
from bpudeploy.fleet.view import BoardState, replay
from bpudeploy.fleet.webhook import WebhookError, check_url, post
from bpudeploy.fleet.worker import Deployment
from bpudeploy.planning import pipeline
from bpudeploy.planning.products import BINARY
from bpudeploy.releases import BuiltRelease, find_release
from bpudeploy.spec.fleet import Fleet
from bpudeploy.spec.load import is_file, load_recipe, load_target
from bpudeploy.spec.target import Target

EXAMPLE = """\
  bpudeploy fleet plan quickstart --fleet fleet.yaml
  bpudeploy fleet rollout quickstart --fleet fleet.yaml --webhook https://ci.example/hook
  bpudeploy fleet status"""
_NO_CONTROLLER = "no process controls it at the moment: `bpudeploy fleet resume` continues it"
_CODES = {
    RolloutResult.COMPLETE: ExitCode.OK,
    RolloutResult.INCOMPLETE: ExitCode.BOARD,
    RolloutResult.FAILED: ExitCode.CHECK,
    RolloutResult.ABORTED: ExitCode.INTERRUPTED,
}
_STEERING = {
    "status": "show how far a rollout is, also while it runs elsewhere",
    "pause": "start nothing new; running work ends",
    "resume": "continue after a pause, or after the controller was killed",
    "abort": "start nothing more; boards stay as they are",
    "approve": "let a wave start that waits for approval",
    "reconcile": "update the boards that a rollout did not reach",
    "report": "write report.html, junit.xml and summary.json again",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True)

    def part(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        verb = add_verb(what, name, summary, f"  bpudeploy fleet {example}")
        add(verb, "--json")
        return verb

    for name, summary, example in (
        ("plan", "show which board gets what, in which wave, and how much is sent; changes nothing", ""),
        ("rollout", "update the fleet wave by wave, under its policy", " --webhook https://ci.example/hook"),
    ):
        verb = part(name, summary, f"{name} quickstart --fleet fleet.yaml{example}")
        verb.add_argument("release", metavar="RELEASE", help="a recipe's file, built for each target, or a built name")
        verb.add_argument("--fleet", type=Path, required=True, metavar="FILE", help="the inventory (.yaml)")
        verb.add_argument("--select", metavar="SELECTOR", help="such as group=canary,chip=bayes-e; default: all")
        add(verb, "--set")
        verb.add_argument("--dry-run", action="store_true", help="the same as plan")
        _add_control(verb)
    for name, summary in _STEERING.items():
        verb = part(name, summary, name + (" --wave 2" if name == "approve" else ""))
        verb.add_argument("rollout", nargs="?", metavar="ROLLOUT", help="its name or a prefix; default: the newest")
        if name in ("resume", "reconcile"):
            _add_control(verb)
        if name == "approve":
            verb.add_argument("--wave", type=int, metavar="N", help="from 1; default: the one that waits")
    part("list", "list the rollouts of this project", "list")
    validate = part("validate", "check an inventory; contacts no board", "validate fleet.yaml")
    validate.add_argument("fleet", type=Path, metavar="FILE")
    ansible = part("import", "convert an Ansible inventory", "import hosts.ini --target rdk-x5 > fleet.yaml")
    ansible.add_argument("inventory", type=Path, metavar="FILE", help="what `ansible-inventory -i` takes, or its JSON")
    ansible.add_argument("--target", metavar="NAME", help="for hosts without a variable bpudeploy_target")


def _add_control(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--key", type=Path, metavar="FILE", help="signs the releases (default: that of `keys new`)")
    verb.add_argument("--allow-downgrade", action="store_true", help="push even if a board has a later build")
    verb.add_argument("--webhook", metavar="URL", help="receives the result as JSON; a failure of it changes nothing")
    add(verb, "--store")


def run(args: Namespace, out: Output) -> ExitCode:
    match args.what:
        case "plan" | "rollout":
            return _launch(args, out)
        case "validate":
            show_inventory(load_fleet(args.fleet), out)
        case "list":
            found = [(path.parent.name, _events(path)) for path in journal.list_journals(launch.ROLLOUTS)]
            out.show([to_json(events) for _, events in found] if out.as_json else None, rollouts_text(found))
        case "import":
            imported = from_ansible(read_ansible(args.inventory), args.target)
            out.text(imported.text)
            for what in imported.left_out:
                out.warn(what)
        case _:
            return _steer(_one(args.rollout), args, out)
    return ExitCode.OK


def _steer(path: Path, args: Namespace, out: Output) -> ExitCode:
    match args.what:
        case "status":
            _show_status(path, out)
        case "report":
            _write_reports(path)
            out.show(to_json(_events(path)), [*status_text(_events(path)), f"{path.parent}/report.html"])
        case "reconcile":
            return _reconcile(path, args, out)
        case "resume" if journal.controller(path) is None:
            deployments = _deployments(journal.read_plan(path).places, args)
            journal.append(path, CommandGiven(at=time.time(), order=RolloutCommand.RESUME, by=owner()))
            return _control(path, deployments, args, out)
        case _:
            _order(path, RolloutCommand(args.what), args, out)
    return ExitCode.OK


def _launch(args: Namespace, out: Output) -> ExitCode:
    if args.webhook is not None:
        check_url(args.webhook)
    inventory = load_fleet(args.fleet)
    targets = targets_of(inventory, args.fleet.parent)
    chosen = parse_selector(args.select, labels_of(inventory)) if args.select is not None else None
    releases = _releases(args, targets, out)
    if not releases:
        raise UsageError(
            f"no release of {args.release!r} was built for {', '.join(sorted(targets))}",
            hint="name a recipe's file: it is built for each target; or `bpudeploy run` it first",
        )
    name = next(iter(releases.values())).manifest.name
    first, layout = launch.plan_rollout(name, inventory, chosen, releases, targets)
    deployments = _deployments(first.places, args, targets)
    if args.what == "plan" or args.dry_run:
        show_plan(launch.preview(first.places, deployments), out)
        for note in layout.notes:
            out.note(note)
        return ExitCode.OK
    return _control(journal.create(launch.ROLLOUTS, first), deployments, args, out)


def _releases(args: Namespace, targets: Mapping[str, Target], out: Output) -> dict[str, BuiltRelease]:
    """Return the release for each target: built now from a recipe's file, or the latest of a name."""
    if is_file(args.release):
        return {name: _build(args, name, out) for name in targets}
    found = {}
    for name in targets:
        with suppress(UsageError):
            found[name] = find_release(f"{args.release}@{name}")
    return found


def _build(args: Namespace, target: str, out: Output) -> BuiltRelease:
    resolved, *more = load_recipe(Path(args.release), [*args.sets, f"target={target}"], backend_names)
    if more:
        raise UsageError(f"{args.release} is a matrix", hint="a rollout has one recipe: fix its fields with --set")
    plan = pipeline.plan(resolved).until(BINARY)
    with out.live() as live:
        return build(resolved, plan, store(args), live.draw).release


def _control(path: Path, deployments: Mapping[str, Deployment], args: Namespace, out: Output) -> ExitCode:
    """Bring a rollout to its end, and write and report the result."""
    with FleetLive(args.json) as live:
        ended = launch.control(path, deployments, live.draw)
    _write_reports(path)
    events = _events(path)
    files = f"{path.parent}/report.html has the timeline; junit.xml and summary.json are beside it"
    out.show(to_json(events), [*status_text(events), files])
    if args.webhook is not None:
        try:
            post(args.webhook, to_json(events))
        except WebhookError as error:
            out.warn(error.message, fix=error.hint)
    assert ended.result is not None
    return _CODES[ended.result]


def _write_reports(path: Path) -> None:
    events = _events(path)
    write_rollout(events, path.with_name("report.html"))
    write_atomically(path.with_name("junit.xml"), to_junit(events))
    write_atomically(path.with_name("summary.json"), json.dumps(to_json(events), indent=1))


def _reconcile(path: Path, args: Namespace, out: Output) -> ExitCode:
    """Update the boards that a rollout did not reach, as a rollout of its own."""
    left = launch.plan_reconcile(_events(path))
    if left is None:
        out.note(f"{path.parent.name} reached every board")
        return ExitCode.OK
    return _control(journal.create(launch.ROLLOUTS, left), _deployments(left.places, args), args, out)


def _deployments(
    plans: Sequence[BoardPlan], args: Namespace, targets: Mapping[str, Target] | None = None
) -> dict[str, Deployment]:
    """Return what boards need; a journal names everything but the targets' files."""
    if targets is None:
        targets = {name: load_target(name, Path())[0] for name in {plan.target for plan in plans}}
    return launch.load_deployments(
        plans, targets, lambda target: policy_of(target, args.key, args.allow_downgrade), store(args)
    )


def _order(path: Path, order: RolloutCommand, args: Namespace, out: Output) -> None:
    wave = args.wave - 1 if order is RolloutCommand.APPROVE and args.wave is not None else None
    journal.append(path, CommandGiven(at=time.time(), order=order, by=owner(), wave=wave))
    who = journal.controller(path)
    out.note(f"{path.parent.name}: {order}, {f'sent to {who}' if who else f'recorded; {_NO_CONTROLLER}'}")


def _one(named: str | None) -> Path:
    found = [
        path for path in journal.list_journals(launch.ROLLOUTS) if named is None or path.parent.name.startswith(named)
    ]
    if not found:
        what = f"no rollout begins with {named!r}" if named else "there are no rollouts yet"
        raise UsageError(what, hint="`bpudeploy fleet list` names them")
    if named is not None and len(found) > 1 and found[0].parent.name != named:
        names = ", ".join(path.parent.name for path in found[:5])
        raise UsageError(f"several rollouts begin with {named!r}: {names}", hint="give more of its name")
    return found[0]


def _events(path: Path) -> tuple[Event, ...]:
    return journal.Journal(path).read_new()


def show_plan(previews: Sequence[launch.BoardPreview], out: Output) -> None:
    """Print who gets what, bytes to send, and why some are skipped."""
    updated = [one for one in previews if one.plan.skipped is None]
    sums = {
        "updated": len(updated),
        "waves": len({one.plan.wave for one in updated}),
        "current": sum(one.serves is not None and one.serves == one.plan.release for one in updated),
        "skipped": len(previews) - len(updated),
        "bytes_to_send": sum(one.bytes_to_send or 0 for one in updated),
        "bytes_not_known": sum(one.bytes_to_send is None for one in updated),
    }
    boards = [
        {
            "board": one.plan.board,
            "target": one.plan.target,
            "wave": None if one.plan.skipped is not None else one.plan.wave + 1,
            "release": one.plan.release,
            "serves": one.serves,
            "bytes_to_send": one.bytes_to_send,
            "note": one.note,
        }
        for one in previews
    ]
    out.show({"boards": boards, **sums}, _plan_text(previews, sums))


def _plan_text(previews: Sequence[launch.BoardPreview], sums: Mapping[str, int]) -> Iterator[str]:
    if not previews:
        yield "no board of the fleet is selected"
        return
    rows = []
    for one in sorted(previews, key=lambda one: (one.plan.skipped is not None, one.plan.wave)):
        plan, skipped = one.plan, one.plan.skipped is not None
        gets = "nothing" if skipped else release_label(plan.release)
        serves, sent = release_label(one.serves), "" if skipped else megabytes(one.bytes_to_send)
        names = (printable(plan.board), printable(plan.target))
        rows.append(("-" if skipped else plan.wave + 1, *names, serves, gets, sent, printable(one.note)))
    yield from table(("wave", "board", "target", "serves", "gets", ">to send", "note"), rows)
    more = f", unknown for {sums['bytes_not_known']}" if sums["bytes_not_known"] else ""
    yield (
        f"boards: {sums['updated']} in {sums['waves']} waves, {megabytes(sums['bytes_to_send'])} to send{more}; "
        f"already up to date: {sums['current']}; skipped: {sums['skipped']}"
    )


def show_inventory(fleet: Fleet, out: Output) -> None:
    rows = []
    for board, one in fleet.boards.items():
        labels = ",".join([*one.groups, *(f"{key}={value}" for key, value in one.labels.items())])
        jump = f" via {one.jump}" if one.jump else ""
        rows.append((board, one.target, printable(one.address + jump), labels))
    sums = f"{len(fleet.boards)} boards, {len(fleet.rollout.waves)} waves"
    out.show(fleet, [*table(("board", "target", "address", "labels"), rows), sums])


def rollouts_text(found: Sequence[tuple[str, Sequence[Event]]]) -> Iterator[str]:
    """Yield a line for each rollout, by the name of its folder."""
    if not found:
        yield "there are no rollouts in this folder yet: `bpudeploy fleet plan` shows what one would do"
    for name, events in found:
        view = replay(events)
        done = sum(board.state is BoardState.DONE for board in view.boards.values())
        status = view.result or view.phase(time.time())
        count = f"{done:>4} of {len(view.boards)} done"
        yield f"  {printable(name)}  {status:<20} {count}  {printable(view.why)}".rstrip()


def _show_status(path: Path, out: Output) -> None:
    events = _events(path)
    lines = list(status_text(events))
    if not isinstance(events[-1], RolloutFinished):
        who = journal.controller(path)
        lines.append(f"controlled by {who}" if who else _NO_CONTROLLER)
    out.show(to_json(events), lines)


def status_text(events: Sequence[Event]) -> Iterator[str]:
    """Yield how far a rollout is: every board, then every wave, then the whole."""
    view, now = replay(events), time.time()
    lines = [board_line(board, view, now) for board in view.boards.values()]
    yield from (text for text, _ in [*lines, *wave_lines(view), rollout_line(view, now)])
