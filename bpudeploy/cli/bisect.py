"""bisect: find the commit of a recipe, or the release, that made a metric worse."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.backends.registry import backend_names, load_backend
from bpudeploy.cli import render, render_nightly
from bpudeploy.cli.bench import measured_on, method_of
from bpudeploy.commits import git
from bpudeploy.deploy import board_opener, build
from bpudeploy.errors import BpudeployError, ExitCode, UsageError
from bpudeploy.known import PROJECT, Known, find_release, releases_of
from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.search import Told, checkout, repository_of, search_commits, search_list
from bpudeploy.plan import pipeline
from bpudeploy.spec.load import is_file, load_recipe, load_target

if TYPE_CHECKING:
    from bpudeploy.nightly.bisect import Judge, Measure, Trial


def bisect(args: Namespace, store: Path) -> int:
    """Search the first bad commit or release; exit 0 when it is found, 4 when several are left."""
    suspects, about = _commits(args, store) if is_file(args.what) else _releases(args, store)
    render_nightly.show_suspects(args.metric, suspects, about, args.json)
    return ExitCode.OK if len(suspects) == 1 else ExitCode.CHECK


def _releases(args: Namespace, store: Path) -> tuple[Sequence[str], Sequence[str]]:
    known = releases_of(args.what)
    if not known:
        raise UsageError(f"no release of {args.what!r} was built here", hint="NAME@TARGET, or a recipe's file")
    order = [one.digest for one in known]
    good, bad = (find_release(text) for text in (args.good, args.bad))
    places = [order.index(one.digest) if one.digest in order else None for one in (good, bad)]
    first, last = places
    if first is None or last is None or first >= last:
        raise UsageError(
            f"--good and --bad are to be releases of {args.what}, the good one built first",
            hint=f"in the order of their builds: {', '.join(digest[:12] for digest in order)}",
        )
    judge = _judge(args, store, good, bad)
    found = search_list(
        known[first + 1 : last], bad, lambda one: _tried(judge, one.digest, lambda: one, store, args.json)
    )
    return [one.digest for one in found.suspects], ()


def _commits(args: Namespace, store: Path) -> tuple[Sequence[str], Sequence[str]]:
    recipe = Path(args.what).resolve()
    if not recipe.is_file():
        raise UsageError(f"there is no {args.what}", hint="a recipe's file in a git repository")
    top = repository_of(recipe.parent)
    within = recipe.relative_to(top)

    def built(tree: Path) -> Known:
        return _built(args, store, tree / within)

    ends = []
    for commit in (args.good, args.bad):
        with checkout(top, commit) as tree:
            ends.append(built(tree))
    judge = _judge(args, store, ends[0], ends[1])
    found = search_commits(
        top, args.good, args.bad, lambda tree, commit: _tried(judge, commit, partial(built, tree), store, args.json)
    )
    about = [
        (git(top, "log", "-1", "--format=%an, %ad: %s", "--date=short", one) or "").strip() for one in found.suspects
    ]
    return found.suspects, about


def _built(args: Namespace, store: Path, recipe: Path) -> Known:
    """Build the recipe of a checkout.

    Raises:
        BpudeployError: it cannot be built there.
    """
    found = load_recipe(recipe, args.sets, backend_names)
    if len(found) > 1:
        names = ", ".join(one.recipe.name for one in found)
        raise UsageError(
            f"{recipe.name} is several recipes: {names}", hint="choose one with --set, or take its matrix away"
        )
    (resolved,) = found
    backend = load_backend(resolved.target.backend)
    plan = pipeline.plan_until(resolved, backend, pipeline.BINARY)
    with render.Live(args.json) as live:
        return build(resolved, backend, plan, store, live.draw, runs=PROJECT / "bisect").known


def _judge(args: Namespace, store: Path, good: Known, bad: Known) -> Judge:
    from bpudeploy.measure import candidate
    from bpudeploy.nightly.bisect import judge

    found, trial = judge(Metric(args.metric), candidate(good, store), candidate(bad, store), _measure(args, good))
    render_nightly.show_trial(trial, Metric(args.metric), args.json)
    return found


def _measure(args: Namespace, good: Known) -> Measure:
    """Return what measures candidates in turns on the board; it is reached anew each time, as builds may take hours."""
    target, _ = load_target(args.target or good.manifest.target, Path())
    opener, method = board_opener(target, args.board), method_of(good, args)
    return lambda candidates: measured_on(opener, target, candidates, method, args.json)


def _tried(judge: Judge, name: str, build: Callable[[], Known], store: Path, as_json: bool) -> Told:
    from bpudeploy.measure import candidate
    from bpudeploy.nightly.bisect import Trial

    try:
        trial: Trial = judge.trial(name, candidate(build(), store))
    except BpudeployError as error:
        trial = Trial(name, None, Told.SKIP, None, error.in_a_line)
    render_nightly.show_trial(trial, judge.metric, as_json)
    return trial.told
