"""nightly: measure a suite and report regressions."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

from bpudeploy.backends.registry import backend_names, load_backend
from bpudeploy.cli.arguments import add, budget, shared_store, store
from bpudeploy.cli.output import Output, table
from bpudeploy.errors import BpudeployError, ExitCode
from bpudeploy.nightly.formatting import format_before_after, format_change, format_time, provenance_suffix
from bpudeploy.nightly.history import MetricHistory, metric_histories, suite_measurements
from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import FindingOutcome, JobResult, JobState, MetricFinding, Night, read_night
from bpudeploy.nightly.outputs import write_outputs
from bpudeploy.nightly.plan import NightPlan, Slot, plan_night
from bpudeploy.nightly.run import NightContext, run_night
from bpudeploy.nightly.suite import LoadedSuite, load_suite
from bpudeploy.results.drawing import plural
from bpudeploy.results.store import Query, Results, open_results
from bpudeploy.run.executors import open_executor

EXAMPLE = """\
  bpudeploy nightly suite.yaml --dry-run
  bpudeploy nightly suite.yaml
  bpudeploy nightly suite.yaml --only resnet18@rdk-x5 --executor dask:4

Exit code: 0 no regression, 4 a regression, 3 a build failed, 5 no board could measure a job.
Report, JUnit, Markdown and metrics are written to .bpudeploy/nights/latest."""


def arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "suite")
    parser.add_argument("--dry-run", action="store_true", help="show the plan; build nothing, contact no board")
    add(parser, "--only", "--executor", "--shared-store", "--jobs", "--memory", "--store", "--results", "--json")


def run(args: Namespace, out: Output) -> ExitCode:
    """Run a suite; the exit code is the verdict."""
    root = store(args)
    loaded = load_suite(args.suite, backend_names).only(args.only)
    for name in {job.resolved.target.backend for job in loaded.jobs}:
        load_backend(name)  # one that is not installed ends the night before it begins
    plan = plan_night(loaded, root)
    if args.dry_run:
        _show_plan(plan, out)
        return ExitCode.OK
    executor = open_executor(args.executor, root, budget(args, len(loaded.jobs)), shared_store(args))
    with open_results(args.results) as results:
        with out.live() as live:
            night, directory = run_night(NightContext(plan, root, executor, results, live.draw_for))
        write_outputs(night, _histories(loaded, night, results), directory)
    return _show(night, directory, out)


def report(directory: Path, args: Namespace, out: Output) -> ExitCode:
    """Regenerate the pages of a night from its record and the results store."""
    night = read_night(directory)
    with open_results(args.results) as results:
        write_outputs(night, _histories(load_suite(Path(night.file), backend_names), night, results), directory)
    return _show(night, directory, out)


def _histories(loaded: LoadedSuite, night: Night, results: Results) -> list[MetricHistory]:
    """Return every job's history up to the night."""
    found: list[MetricHistory] = []
    for job in loaded.jobs:
        query = Query(recipe=job.resolved.recipe.name, target=job.resolved.target.name, with_samples=False)
        until = [m for m in results.find(query) if night.ended is None or m.made <= night.ended]
        found += metric_histories(job.name, suite_measurements(until, night.suite), job.checks)
    return found


def _show_plan(plan: NightPlan, out: Output) -> None:
    broken = {job: error for job, error in plan.plans.items() if isinstance(error, BpudeployError)}
    jobs = [
        {"job": s.job.name, "value": s.job.value, "board": s.board, "begins_s": s.begins_s, **asdict(s.estimate)}
        for s in plan.slots
    ]
    document = {"jobs": jobs, "out": dict(plan.excluded), "broken": {j: e.message for j, e in broken.items()}}
    out.show(document, _plan_text(plan, broken))


def _plan_text(plan: NightPlan, broken: dict[str, BpudeployError]) -> Iterator[str]:
    loaded = plan.loaded
    budget_text = f", {loaded.suite.budget_minutes:g} minutes" if loaded.suite.budget_minutes is not None else ""
    yield f"{loaded.suite.name}: {len(loaded.jobs)} jobs{budget_text}, highest value first"
    columns = ("job", ">value", ">starts", ">build", ">board", "on")
    yield from table(columns, [_slot(slot, plan) for slot in plan.slots])
    yield "  ~: not known from earlier nights: an upper bound on a board; for a build, the steps with known times"
    yield from (f"  {job}: cannot be built: {error.message}" for job, error in broken.items())
    yield from (f"  board {board} is excluded: {why}" for board, why in plan.excluded.items())


def _slot(slot: Slot, plan: NightPlan) -> tuple[object, ...]:
    needed, sign = slot.estimate, "" if slot.estimate.sure else "~"
    quarantined = all(b in plan.excluded for b in slot.job.boards)
    where = slot.board or ("in quarantine" if quarantined else "left out: no time")
    others = len(slot.job.boards) - 1
    also = f" or {others} more" if slot.board is not None and others else ""
    begins, build, board = (str(timedelta(seconds=round(s))) for s in (slot.begins_s, needed.build_s, needed.board_s))
    return slot.job.name, f"{slot.job.value:g}", begins, sign + build, sign + board, where + also


def _show(night: Night, directory: Path, out: Output) -> ExitCode:
    code = ExitCode(night.exit_code)
    document = {**night.model_dump(mode="json"), "exit_code": code, "directory": str(directory)}
    out.show(document, _text(night, directory))
    return code


def _text(night: Night, directory: Path) -> Iterator[str]:
    yield f"\n{night.suite}, {format_time(night.began)} UTC"
    yield f"  {'job':<34} {'board':<18} {'p50, ms':>18} {'top-1 %':>8}  verdict"
    for job in night.jobs:
        yield from _job(job)
    yield from (f"  board {board} was excluded: {why}" for board, why in night.quarantine.items())
    yield f"\n{plural(len(night.regressions), 'regression')}; details: {directory / 'report.html'}"


def _job(job: JobResult) -> Iterator[str]:
    if job.state is not JobState.MEASURED:
        yield f"  {job.job:<34} {job.board or '':<18} {'':>18} {'':>8}  {job.state}: {job.why}"
        return
    p50 = f"{job.p50_ms.value:.2f} ({job.p50_ms.low:.2f}-{job.p50_ms.high:.2f})" if job.p50_ms is not None else ""
    top1 = f"{job.figures[Metric.TOP1]:.1f}" if Metric.TOP1 in job.figures else ""
    counts = {outcome: sum(f.outcome is outcome for f in job.findings) for outcome in FindingOutcome}
    verdict = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    verdict = (verdict or "nothing to compare with yet") + provenance_suffix(job)
    yield f"  {job.job:<34} {job.board or '':<18} {p50:>18} {top1:>8}  {verdict}"
    shown: tuple[tuple[str, ...], ...] = ((), ())
    for finding in job.regressions:
        yield from _finding(job, finding)
        if (finding.changed, finding.reproduce) != shown:  # the regressions of a job usually have one cause
            shown = (finding.changed, finding.reproduce)
            yield from (f"        changed: {line}" for line in finding.changed or ("nothing known",))
            yield from (f"        $ {line}" for line in finding.reproduce)
    if job.caveats:
        yield f"      caveats: {', '.join(job.caveats)}"
    for fault in job.faults:
        yield f"      retried after a fault on {fault.board}: {fault.said}"


def _finding(job: JobResult, finding: MetricFinding) -> Iterator[str]:
    values = f"{format_before_after(job, finding)}, {format_change(finding)}"
    yield f"      REGRESSION {finding.title}: {values}"
    yield f"        {finding.how}" + (f"; {'; '.join(finding.because)}" if finding.because else "")
    if finding.since is not None:
        good = f", last good {format_time(finding.last_good)}" if finding.last_good is not None else ""
        yield f"        first bad night {format_time(finding.since)}{good}"
