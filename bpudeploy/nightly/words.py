"""A night in words and figures, the same in every report of it: no figure without its spread, where it has one."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import Finding, JobResult, JobState, Night, Outcome
from bpudeploy.provenance import Provenance


class Standing(StrEnum):
    """How a job came out of a night, in one word."""

    REGRESSION = "regression"
    BUILD_FAILED = "build failed"
    NO_BOARD = "no board"
    LEFT_OUT = "left out"
    CUT_OFF = "cut off"
    CANNOT_TELL = "cannot tell"
    NOT_JUDGED = "not judged"
    """It was measured, and there is nothing to hold it against yet."""
    IMPROVEMENT = "improvement"
    PASS = "pass"

    @property
    def mark(self) -> str:
        """A sign for a table without colours."""
        return _MARKS[self]

    @property
    def tone(self) -> str:
        """Good, bad, odd, or nothing of it."""
        return _TONES.get(self, "")


_MARKS = {
    Standing.REGRESSION: "✗",
    Standing.BUILD_FAILED: "B",
    Standing.NO_BOARD: "N",
    Standing.LEFT_OUT: "–",
    Standing.CUT_OFF: "…",
    Standing.CANNOT_TELL: "?",
    Standing.NOT_JUDGED: "○",
    Standing.IMPROVEMENT: "▲",
    Standing.PASS: "✓",
}
_TONES = {
    Standing.REGRESSION: "bad",
    Standing.BUILD_FAILED: "bad",
    Standing.NO_BOARD: "odd",
    Standing.CUT_OFF: "odd",
    Standing.CANNOT_TELL: "odd",
    Standing.IMPROVEMENT: "good",
    Standing.PASS: "good",
}
_OF_STATE = {
    JobState.BUILD_FAILED: Standing.BUILD_FAILED,
    JobState.NO_BOARD: Standing.NO_BOARD,
    JobState.LEFT_OUT: Standing.LEFT_OUT,
    JobState.RUNNING: Standing.CUT_OFF,
}
_DIGITS = {Metric.P50: 3, Metric.P99: 3, Metric.TOP1: 2, Metric.SIZE: 3, Metric.MEMORY: 1, Metric.COMPILE_TIME: 1}


def standing_of(job: JobResult) -> Standing:
    """Return how a job came out: what got worse counts first, then what could be told at all."""
    if job.regressions:
        return Standing.REGRESSION
    if job.state in _OF_STATE:
        return _OF_STATE[job.state]
    outcomes = {finding.outcome for finding in job.findings}
    if not outcomes:
        return Standing.NOT_JUDGED
    if Outcome.IMPROVEMENT in outcomes:
        return Standing.IMPROVEMENT
    return Standing.PASS if Outcome.SAME in outcomes else Standing.CANNOT_TELL


def counts_of(night: Night) -> dict[Standing, int]:
    """Return how many jobs came out how; those that none did are left out."""
    found = Counter(standing_of(job) for job in night.jobs)
    return {standing: found[standing] for standing in Standing if found[standing]}


def verdict_of(night: Night) -> str:
    """Return the verdict in a few words."""
    worse = night.regressions
    if worse:
        jobs = len({job.job for job, _ in worse})
        return f"{counted(len(worse), 'regression')} in {jobs} of {counted(len(night.jobs), 'job')}"
    counts = counts_of(night)
    if night.ended is None:
        return "not over, or cut off; no regression so far"
    for standing in (Standing.BUILD_FAILED, Standing.NO_BOARD):
        if standing in counts:
            which = f"{counts[standing]} of {counted(len(night.jobs), 'job')}"
            return f"{standing} for {which}; no regression in the others"
    measured = sum(job.state is JobState.MEASURED for job in night.jobs)
    if not measured:
        return "nothing was measured"
    told = sum(any(f.outcome is not Outcome.CANNOT_TELL for f in job.findings) for job in night.jobs)
    if not told:
        why = "nothing can be told of" if Standing.CANNOT_TELL in counts else "nothing to hold against yet:"
        return f"{why} {counted(measured, 'measured job')}"
    return f"no regression in {told} judged of {counted(len(night.jobs), 'job')}"


def counted(count: int, what: str) -> str:
    """Return so many of something."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def clock(at: str) -> str:
    """Return a time of a record, ISO 8601 and UTC, to the minute."""
    return at[:16].replace("T", " ")


def value_of(metric: Metric, value: float | None) -> str:
    """Return a metric's value with its unit; what is not known is said to be so."""
    return "not known" if value is None else f"{value:.{_DIGITS[metric]}f} {metric.unit}"


def figure_of(job: JobResult, metric: Metric) -> str:
    """Return what a job's metric is, with its 95 % interval where it is known, and how it came to be if not measured.

    Empty: it has none.
    """
    value = job.figures.get(metric)
    if value is None:
        return ""
    text = value_of(metric, value)
    if metric is Metric.P50 and job.p50_ms is not None:
        text += f" ({job.p50_ms.low:.3f} to {job.p50_ms.high:.3f})"
    return text + made_of(job)


def made_of(job: JobResult) -> str:
    """Return a word for figures that no board gave; empty where they are measured."""
    if job.provenance is None or job.provenance is Provenance.MEASURED:
        return ""
    return f", {job.provenance.value}"


def change_of(finding: Finding) -> str:
    """Return a change with its 95 % interval."""
    change, unit = finding.change, finding.metric.change_unit
    if change is None:
        return "not known"
    if change.low == change.high:
        return f"{change.value:+.2f} {unit}, exactly"
    return f"{change.value:+.2f} {unit} ({change.low:+.2f} to {change.high:+.2f})"


def step_of(job: JobResult, finding: Finding) -> str:
    """Return a metric's value before and now."""
    return f"{value_of(finding.metric, finding.before)} → {value_of(finding.metric, finding.now)}{made_of(job)}"
