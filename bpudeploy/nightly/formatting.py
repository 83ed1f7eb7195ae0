"""Verdicts and figures of a night as text, the same in every report."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Self

from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import FindingOutcome, JobResult, JobState, MetricFinding, Night
from bpudeploy.provenance import Provenance
from bpudeploy.results.drawing import plural


class JobVerdict(StrEnum):
    """The verdict on a job."""

    mark: str
    """A sign for tables without colours."""
    tone: str
    """CSS class: good, bad, odd or the empty string."""

    def __new__(cls, value: str, mark: str = "", tone: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.mark, member.tone = mark, tone
        return member

    REGRESSION = "regression", "✗", "bad"
    BUILD_FAILED = "build failed", "B", "bad"
    NO_BOARD = "no board", "N", "odd"
    LEFT_OUT = "left out", "–"
    INTERRUPTED = "interrupted", "…", "odd"
    CANNOT_TELL = "cannot tell", "?", "odd"
    NOT_JUDGED = "not judged", "○"
    """Measured, but there is nothing to compare it with yet."""
    IMPROVEMENT = "improvement", "▲", "good"
    PASS = "pass", "✓", "good"


def job_verdict(job: JobResult) -> JobVerdict:
    """Return the verdict on a job; regressions take precedence."""
    if job.regressions:
        return JobVerdict.REGRESSION
    if job.state is not JobState.MEASURED:
        return JobVerdict.INTERRUPTED if job.state is JobState.RUNNING else JobVerdict(job.state.value)
    outcomes = {finding.outcome for finding in job.findings}
    if not outcomes:
        return JobVerdict.NOT_JUDGED
    if FindingOutcome.IMPROVEMENT in outcomes:
        return JobVerdict.IMPROVEMENT
    return JobVerdict.PASS if FindingOutcome.SAME in outcomes else JobVerdict.CANNOT_TELL


def count_verdicts(night: Night) -> dict[JobVerdict, int]:
    """Return the number of jobs per verdict, without zeros."""
    found = Counter(job_verdict(job) for job in night.jobs)
    return {verdict: found[verdict] for verdict in JobVerdict if found[verdict]}


def night_verdict(night: Night) -> str:
    """Return the verdict on a night in a few words."""
    jobs = plural(len(night.jobs), "job")
    if night.regressions:
        affected = len({job.job for job, _ in night.regressions})
        return f"{plural(len(night.regressions), 'regression')} in {affected} of {jobs}"
    counts = count_verdicts(night)
    if night.ended is None:
        return "running or interrupted; no regression so far"
    for verdict in (JobVerdict.BUILD_FAILED, JobVerdict.NO_BOARD):
        if verdict in counts:
            return f"{verdict} for {counts[verdict]} of {jobs}; no regression in the others"
    if not night.measured:
        return "nothing was measured"
    judged = sum(any(f.outcome is not FindingOutcome.CANNOT_TELL for f in job.findings) for job in night.jobs)
    if judged:
        return f"no regression; {judged} of {jobs} judged"
    why = "too little data for" if JobVerdict.CANNOT_TELL in counts else "nothing to compare with yet for"
    return f"{why} {plural(night.measured, 'measured job')}"


def format_time(at: str) -> str:
    """Return a recorded time (ISO 8601, UTC) to the minute."""
    return at[:16].replace("T", " ")


def format_value(metric: Metric, value: float | None) -> str:
    """Return a metric's value with its unit, or "unknown"."""
    return "unknown" if value is None else f"{value:.{metric.digits}f} {metric.unit}"


def format_figure(job: JobResult, metric: Metric) -> str:
    """Return a job's metric with its 95 % interval if known, and its provenance if not measured; "" if it has none."""
    value = job.figures.get(metric)
    if value is None:
        return ""
    text = format_value(metric, value)
    if metric is Metric.P50 and job.p50_ms is not None:
        text += f" ({job.p50_ms.low:.3f} to {job.p50_ms.high:.3f})"
    return text + provenance_suffix(job)


def provenance_suffix(job: JobResult) -> str:
    """Return ", simulated" and the like; empty if measured."""
    if job.provenance is None or job.provenance is Provenance.MEASURED:
        return ""
    return f", {job.provenance.value}"


def format_change(finding: MetricFinding) -> str:
    """Return a change with its 95 % interval."""
    change, unit = finding.change, finding.metric.change_unit
    if change is None:
        return "unknown"
    interval = "exact" if change.low == change.high else f"{change.low:+.2f} to {change.high:+.2f}"
    return f"{change.value:+.2f} {unit} ({interval})"


def format_before_after(job: JobResult, finding: MetricFinding) -> str:
    """Return a metric's value before and now."""
    before, now = (format_value(finding.metric, value) for value in (finding.before, finding.now))
    return f"{before} → {now}{provenance_suffix(job)}"
