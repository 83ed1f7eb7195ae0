"""bisect: find the commit of a recipe, or the release, that made a metric worse."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bpudeploy.backends.registry import backend_names
from bpudeploy.cli.arguments import add, store, target_named
from bpudeploy.cli.measuring import measured_on, method_of
from bpudeploy.cli.output import Output
from bpudeploy.commits import git
from bpudeploy.deployment import board_opener, build
from bpudeploy.errors import BpudeployError, ExitCode, UsageError
from bpudeploy.measure import Candidate, candidate
from bpudeploy.nightly.bisect import (
    BisectResult,
    BisectTest,
    Trial,
    bisect_test,
    checkout,
    repository_of,
    search_commits,
    search_list,
)
from bpudeploy.nightly.metrics import Metric
from bpudeploy.planning import pipeline
from bpudeploy.planning.products import BINARY
from bpudeploy.releases import PROJECT, BuiltRelease, find_release, releases_of
from bpudeploy.results.measurement import Measurement
from bpudeploy.spec.load import is_file, load_recipe

EXAMPLE = """\
  bpudeploy bisect recipes/vit.yaml --good v1.2 --bad main --metric p50 --board sunrise@192.168.1.10
  bpudeploy bisect vit@rdk-x5 --good 3fa9c1d2 --bad 77aa01bc --metric top1 --board B

Each candidate is measured interleaved with the good one; it is bad if it lost at least half of what the bad one did.
Commits are checked out in a separate worktree: your checkout is not touched."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="RECIPE|NAME@TARGET", help="a recipe file in git, or releases built here")
    parser.add_argument("--good", required=True, metavar="REV", help="a commit, or digits of a release's digest")
    parser.add_argument("--bad", required=True, metavar="REV")
    parser.add_argument("--metric", choices=[metric.value for metric in Metric], default=Metric.P50.value)
    add(parser, "--set", "--board", "--target")
    parser.add_argument("--rounds", type=int, metavar="N", help="minimum number of rounds of each measurement")
    parser.add_argument("--max-seconds", type=float, metavar="S", help="maximum time of each measurement")
    add(parser, "--store", "--json")


def run(args: Namespace, out: Output) -> ExitCode:
    """Search the first bad commit or release; exit 0 when it is found, 4 when several are left."""
    search = _Search(args, out, store(args), Metric(args.metric))
    suspects, about = search.commits() if is_file(args.what) else search.releases()
    document = {"metric": args.metric, "suspects": list(suspects), "about": list(about)}
    out.show(document, _text(args.metric, suspects, about))
    return ExitCode.OK if len(suspects) == 1 else ExitCode.CHECK


def _text(metric: str, suspects: Sequence[str], about: Sequence[str]) -> Iterator[str]:
    if len(suspects) == 1:
        yield f"{suspects[0]} is the first bad one for {metric}" + (f"\n  {about[0]}" if about else "")
        return
    yield f"the first bad one for {metric} is one of these; those between could not be tested:"
    for number, one in enumerate(suspects):
        yield f"  {one}" + (f"  {about[number]}" if about else "")


@dataclass(frozen=True)
class _Search:
    args: Namespace
    out: Output
    store: Path
    metric: Metric

    def releases(self) -> tuple[Sequence[str], Sequence[str]]:
        """Search among the releases that were built here."""
        known = releases_of(self.args.what)
        if not known:
            raise UsageError(f"no release of {self.args.what!r} was built here", hint="NAME@TARGET, or a recipe's file")
        order = [one.digest for one in known]
        good, bad = (find_release(text) for text in (self.args.good, self.args.bad))
        first, last = (order.index(one.digest) if one.digest in order else None for one in (good, bad))
        if first is None or last is None or first >= last:
            raise UsageError(
                f"--good and --bad must be releases of {self.args.what}, the good one built first",
                hint=f"in the order of their builds: {', '.join(digest[:12] for digest in order)}",
            )
        test = self._prepare(good, bad)
        found = search_list(known[first + 1 : last], bad, lambda one: self._try(test, one.digest, lambda: one))
        return [one.digest for one in found], ()

    def commits(self) -> tuple[Sequence[str], Sequence[str]]:
        """Search among the commits of a recipe's repository."""
        recipe = Path(self.args.what).resolve()
        if not recipe.is_file():
            raise UsageError(f"there is no file {self.args.what}", hint="name a recipe's file in a git repository")
        top = repository_of(recipe.parent)
        within = recipe.relative_to(top)
        ends = []
        for commit in (self.args.good, self.args.bad):
            with checkout(top, commit) as tree:
                ends.append(self._build(tree / within))
        test = self._prepare(ends[0], ends[1])
        found = search_commits(
            top,
            self.args.good,
            self.args.bad,
            lambda tree, commit: self._try(test, commit, partial(self._build, tree / within)),
        )
        shown = ("log", "-1", "--format=%an, %ad: %s", "--date=short")
        return found, [(git(top, *shown, one) or "").strip() for one in found]

    def _build(self, recipe: Path) -> BuiltRelease:
        """Build the recipe of a checkout."""
        found = load_recipe(recipe, self.args.sets, backend_names)
        if len(found) > 1:
            names = ", ".join(one.recipe.name for one in found)
            raise UsageError(
                f"{recipe.name} is several recipes: {names}", hint="choose one with --set, or remove its matrix"
            )
        (resolved,) = found
        plan = pipeline.plan(resolved).until(BINARY)
        with self.out.live() as live:
            return build(resolved, plan, self.store, live.draw, runs=PROJECT / "bisect").release

    def _prepare(self, good: BuiltRelease, bad: BuiltRelease) -> BisectTest:
        target = target_named(self.args.target or good.manifest.target)
        opener, method = board_opener(target, self.args.board), method_of(good, self.args)

        def measure(candidates: Sequence[Candidate]) -> tuple[Measurement, ...]:
            return measured_on(opener, candidates, method, self.out)  # connects each time: builds may take hours

        test, trial = bisect_test(self.metric, candidate(good, self.store), candidate(bad, self.store), measure)
        self._report(trial)
        return test

    def _try(self, test: BisectTest, name: str, build: Callable[[], BuiltRelease]) -> BisectResult:
        try:
            trial = test.run(name, candidate(build(), self.store))
        except BpudeployError as error:
            trial = Trial(name, None, BisectResult.SKIP, None, error.one_line)
        self._report(trial)
        return trial.result

    def _report(self, trial: Trial) -> None:
        c, unit = trial.loss, self.metric.change_unit
        loss = f"{c.value:+.2f} {unit} ({c.low:+.2f} to {c.high:+.2f})" if c else ""
        self.out.aside(f"  {trial.name[:12]:<14} {trial.result:<5} {loss}  {trial.why}".rstrip())
