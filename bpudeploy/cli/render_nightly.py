"""How nightly, baseline and bisect are printed: what a night would do, what it found, what a pin changes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.digest import short

if TYPE_CHECKING:
    from bpudeploy.nightly.baseline import Baseline
    from bpudeploy.nightly.bisect import Trial
    from bpudeploy.nightly.metrics import Metric
    from bpudeploy.nightly.night import Finding, JobResult, Night
    from bpudeploy.nightly.pin import Pin
    from bpudeploy.nightly.prepare import Prepared
    from bpudeploy.nightly.schedule import Slot


def show_plan(prepared: Prepared, as_json: bool) -> None:
    """Print what a night would do, in its order, and what it would leave out."""
    from bpudeploy.errors import BpudeployError

    broken = {job: plan for job, plan in prepared.plans.items() if isinstance(plan, BpudeployError)}
    if as_json:
        print(
            json.dumps(
                {
                    **_plan_json(prepared.slots),
                    "out": dict(prepared.out),
                    "broken": {j: e.message for j, e in broken.items()},
                }
            )
        )
        return
    loaded = prepared.loaded
    budget = f", {loaded.suite.budget_minutes:g} minutes" if loaded.suite.budget_minutes is not None else ""
    print(f"{loaded.suite.name}: {len(loaded.jobs)} jobs{budget}; the most valuable first")
    print(f"  {'job':<34} {'value':>6} {'begins':>8} {'build':>8} {'board':>8}  board")
    for slot in prepared.slots:
        need, sign = slot.expected, "" if slot.expected.sure else "~"
        where = slot.board or (
            "in quarantine" if all(b in prepared.out for b in slot.job.boards) else "left out: no time"
        )
        others = len(slot.job.boards) - 1
        also = f" or {others} more" if slot.board is not None and others else ""
        print(
            f"  {slot.job.name:<34} {slot.job.value:>6g} {_clock(slot.begins_s):>8} {sign + _clock(need.build_s):>8} "
            f"{sign + _clock(need.board_s):>8}  {where}{also}"
        )
    print("  ~: not known from earlier nights: at most, for a board; of a build, what is known of it")
    for job, error in broken.items():
        print(f"  {job}: cannot be built: {error.message}")
    for board, why in prepared.out.items():
        print(f"  board {board} is left out: {why}")


def _plan_json(slots: Sequence[Slot]) -> dict[str, object]:
    return {
        "jobs": [
            {
                "job": slot.job.name,
                "value": slot.job.value,
                "board": slot.board,
                "begins_s": slot.begins_s,
                "build_s": slot.expected.build_s,
                "board_s": slot.expected.board_s,
                "sure": slot.expected.sure,
            }
            for slot in slots
        ]
    }


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def show_night(night: Night, directory: Path, as_json: bool) -> None:
    """Print what a night found; with ``--json`` its whole record."""
    if as_json:
        print(json.dumps({**night.model_dump(mode="json"), "exit_code": night.exit_code, "directory": str(directory)}))
        return
    from bpudeploy.nightly.words import clock, counted

    print(f"\n{night.suite}, {clock(night.began)} UTC")
    print(f"  {'job':<34} {'board':<18} {'p50, ms':>18} {'top-1 %':>8}  verdict")
    for job in night.jobs:
        print("\n".join(_job_lines(job)))
    for board, why in night.quarantine.items():
        print(f"  board {board} was left out: {why}")
    print(f"\n{counted(len(night.regressions), 'regression')}; {directory / 'report.html'} has the evidence")


def _job_lines(job: JobResult) -> Iterator[str]:
    from bpudeploy.nightly.metrics import Metric
    from bpudeploy.nightly.night import JobState
    from bpudeploy.results.measurement import Provenance

    if job.state is not JobState.MEASURED:
        yield f"  {job.job:<34} {job.board or '':<18} {'':>18} {'':>8}  {job.state}: {job.why}"
        return
    p50 = f"{job.p50_ms.value:.2f} ({job.p50_ms.low:.2f}-{job.p50_ms.high:.2f})" if job.p50_ms is not None else ""
    simulated = " (simulated)" if job.provenance is Provenance.SIMULATED else ""
    top1 = f"{job.figures[Metric.TOP1]:.1f}" if Metric.TOP1 in job.figures else ""
    yield f"  {job.job:<34} {job.board or '':<18} {p50:>18} {top1:>8}  {_told(job)}{simulated}"
    told: tuple[tuple[str, ...], ...] = ((), ())
    for finding in job.regressions:
        yield from _finding_lines(finding)
        if (finding.changed, finding.reproduce) != told:  # most often all of a job have one cause
            told = (finding.changed, finding.reproduce)
            yield from (f"        changed: {line}" for line in finding.changed or ("nothing that is known",))
            yield from (f"        $ {line}" for line in finding.reproduce)
    if job.caveats:
        yield f"      caveats: {', '.join(job.caveats)}"
    for fault in job.faults:
        yield f"      tried again after a fault of {fault.board}: {fault.said}"


def _told(job: JobResult) -> str:
    from bpudeploy.nightly.night import Outcome

    counts = {outcome: sum(f.outcome is outcome for f in job.findings) for outcome in Outcome}
    said = [f"{count} {outcome}" for outcome, count in counts.items() if count]
    return ", ".join(said) or "nothing to hold it against yet"


def _finding_lines(finding: Finding) -> Iterator[str]:
    metric = finding.metric
    before, now = (f"{v:.4g}" if v is not None else "?" for v in (finding.before, finding.now))
    change = finding.change
    spread = f", {change.value:+.1f} {metric.change_unit} ({change.low:+.1f} to {change.high:+.1f})" if change else ""
    yield f"      REGRESSION {metric.words} against {finding.against}: {before} -> {now} {metric.unit}{spread}"
    yield f"        {finding.how}" + (f"; {'; '.join(finding.because)}" if finding.because else "")
    if finding.since is not None:
        good = f", the last good one was {finding.last_good[:16]}" if finding.last_good is not None else ""
        yield f"        first bad night {finding.since[:16]}{good}"


def show_baselines(found: Sequence[Pin], as_json: bool) -> None:
    """Print what is pinned."""
    if as_json:
        print(json.dumps([one.before.model_dump(mode="json") if one.before else {"job": one.job} for one in found]))
        return
    for one in found:
        print(f"  {one.job:<34} {_pinned(one.before)}")


def show_pins(found: Sequence[Pin], folder: Path, dry_run: bool, as_json: bool) -> None:
    """Print what a pin changes, job by job."""
    if as_json:
        print(json.dumps([{"job": p.job, "from": _release(p.before), "to": _release(p.after)} for p in found]))
        return
    for one in found:
        if one.after is None:
            print(f"  {one.job:<34} nothing was measured of it: left as it is")
            continue
        print(f"  {one.job:<34} {_pinned(one.before)}")
        print(f"  {'':<34} -> {_pinned(one.after)}")
    print(f"{'would write' if dry_run else 'wrote'} {folder}: look at it with git diff, and commit it")


def _release(baseline: Baseline | None) -> str | None:
    return baseline.release if baseline is not None else None


def _pinned(baseline: Baseline | None) -> str:
    if baseline is None:
        return "nothing is pinned"
    sessions = sum(len(board.sessions) for board in baseline.boards.values())
    top1 = (
        f", top-1 {baseline.accuracy.top1:.2f} % of {baseline.accuracy.images}" if baseline.accuracy is not None else ""
    )
    return (
        f"{short(baseline.release)} since {baseline.pinned[:16]}{top1}, {sessions} sessions on "
        f"{len(baseline.boards)} boards: {baseline.why}"
    )


def show_trial(trial: Trial, metric: Metric, as_json: bool) -> None:
    """Print how one candidate did, as soon as it is known; with ``--json`` on standard error."""
    change = trial.change
    loss = f"{change.value:+.2f} {metric.change_unit} ({change.low:+.2f} to {change.high:+.2f})" if change else ""
    why = f"  {trial.why}" if trial.why else ""
    print(
        f"  {trial.name[:12]:<14} {trial.told:<5} {loss}{why}", file=sys.stderr if as_json else sys.stdout, flush=True
    )


def show_suspects(metric: str, suspects: Sequence[str], about: Sequence[str], as_json: bool) -> None:
    """Print where a search ended."""
    if as_json:
        print(json.dumps({"metric": metric, "suspects": list(suspects), "about": list(about)}))
        return
    if len(suspects) == 1:
        print(f"{suspects[0]} is the first bad one for {metric}" + (f"\n  {about[0]}" if about else ""))
        return
    print(f"the first bad one for {metric} is one of these; those between could not be tried:")
    for number, one in enumerate(suspects):
        print(f"  {one}" + (f"  {about[number]}" if about else ""))
