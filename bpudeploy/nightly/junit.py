"""A night as a JUnit report: one test suite per job, with one test case per finding and one for the job itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from bpudeploy.nightly.formatting import format_before_after, format_change, format_figure, night_verdict
from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import FindingOutcome, JobResult, JobState, MetricFinding, Night
from bpudeploy.results.junit import Case, CaseStatus, Suite, report

_STATES = {
    JobState.MEASURED: CaseStatus.PASSED,
    JobState.BUILD_FAILED: CaseStatus.ERROR,
    JobState.NO_BOARD: CaseStatus.ERROR,
}
"""All other states are reported as skipped."""
_OUTCOMES = {FindingOutcome.REGRESSION: CaseStatus.FAILURE, FindingOutcome.CANNOT_TELL: CaseStatus.SKIPPED}
"""All other outcomes are reported as passed."""


def to_junit(night: Night) -> str:
    """Return a JUnit report.

    ======================================================  ===================================
    regression                                              ``failure``
    failed build, or a job that no board could measure      ``error`` of the case ``measured``
    left out, interrupted, or no verdict                    ``skipped``
    improvement, or no difference above the threshold       passed
    ======================================================  ===================================
    """
    return report([_suite(night, job) for job in night.jobs])


def _suite(night: Night, job: JobResult) -> Suite:
    classname = f"{night.suite}.{job.job}"
    return Suite(
        name=job.job,
        package=night.suite,
        began=datetime.fromisoformat(night.began),
        properties=dict(_properties(night, job)),
        cases=[_measured(job, classname), *(_case(job, finding, classname) for finding in job.findings)],
    )


def _properties(night: Night, job: JobResult) -> Iterator[tuple[str, str]]:
    known = {
        "night": night.began,
        "verdict of the night": night_verdict(night),
        "commit": night.commit,
        "board": job.board,
        "board_id": job.board_id,
        "session": job.session,
        "release": job.release,
        "baseline": job.baseline,
        "provenance": job.provenance,
        "caveats": ", ".join(job.caveats),
    }
    yield from ((name, str(value)) for name, value in known.items() if value)
    yield from ((metric.value, format_figure(job, metric)) for metric in Metric if metric in job.figures)
    yield from ((f"in quarantine: {board}", why) for board, why in night.quarantine.items())


def _measured(job: JobResult, classname: str) -> Case:
    faults = [f"{fault.at} {fault.board}: {fault.said}" for fault in job.faults]
    message = f"{job.state}: {job.why}" if job.why else job.state.value
    return Case(
        name="measured",
        classname=classname,
        seconds=job.build_seconds + job.board_seconds,
        status=_STATES.get(job.state, CaseStatus.SKIPPED),
        message=message,
        type=job.state.value,
        text="\n".join([message, *faults]),
    )


def _case(job: JobResult, finding: MetricFinding, classname: str) -> Case:
    words = f"{format_change(finding)}: {format_before_after(job, finding)}"
    if finding.outcome is FindingOutcome.CANNOT_TELL:
        words = f"cannot tell: {'; '.join(finding.because) or words}"
    return Case(
        name=finding.title,
        classname=classname,
        seconds=0.0,
        status=_OUTCOMES.get(finding.outcome, CaseStatus.PASSED),
        message=words,
        type=finding.outcome.value,
        text="\n".join([words, *_evidence(finding)]),
    )


def _evidence(finding: MetricFinding) -> Iterator[str]:
    yield f"how: {finding.how}; threshold {finding.at_least:g} {finding.metric.change_unit}"
    yield from finding.because
    yield f"since: {finding.since or 'unknown'}, last good: {finding.last_good or 'unknown'}"
    yield from (f"changed: {line}" for line in finding.changed or ("nothing known",))
    yield from (f"reproduce: {command}" for command in finding.reproduce)
