"""A night as a JUnit report: a test suite a job, a test case a finding, and one for the job itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import Finding, JobResult, JobState, Night, Outcome
from bpudeploy.nightly.words import change_of, figure_of, step_of, verdict_of
from bpudeploy.results.junit import Case, CaseStatus, Suite, report

_STATES = {
    JobState.MEASURED: CaseStatus.PASSED,
    JobState.BUILD_FAILED: CaseStatus.ERROR,
    JobState.NO_BOARD: CaseStatus.ERROR,
    JobState.LEFT_OUT: CaseStatus.SKIPPED,
    JobState.RUNNING: CaseStatus.SKIPPED,
}
_OUTCOMES = {
    Outcome.REGRESSION: CaseStatus.FAILURE,
    Outcome.CANNOT_TELL: CaseStatus.SKIPPED,
    Outcome.IMPROVEMENT: CaseStatus.PASSED,
    Outcome.SAME: CaseStatus.PASSED,
}


def to_junit(night: Night) -> str:
    """Return a JUnit report, in the form that Ant's, Jenkins's and GitLab's readers agree on.

    ======================================================  ===================================
    a regression                                            ``failure``
    a build that failed, a job that no board could measure  ``error``, of the case ``measured``
    left out, cut off, or nothing can be told               ``skipped``
    an improvement, or no difference that matters           passed
    ======================================================  ===================================

    A character that XML cannot hold is replaced by U+FFFD.
    """
    return report([_suite(night, job) for job in night.jobs])


def _suite(night: Night, job: JobResult) -> Suite:
    return Suite(
        name=job.job,
        package=night.suite,
        began=datetime.fromisoformat(night.began),
        properties=dict(_properties(night, job)),
        cases=[_measured(night, job), *(_case(night, job, finding) for finding in job.findings)],
    )


def _properties(night: Night, job: JobResult) -> Iterator[tuple[str, str]]:
    known = {
        "night": night.began,
        "verdict of the night": verdict_of(night),
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
    yield from ((metric.value, figure_of(job, metric)) for metric in Metric if metric in job.figures)
    yield from ((f"in quarantine: {board}", why) for board, why in night.quarantine.items())


def _measured(night: Night, job: JobResult) -> Case:
    faults = [f"{fault.at} {fault.board}: {fault.said}" for fault in job.faults]
    message = f"{job.state}: {job.why}" if job.why else job.state.value
    return Case(
        name="measured",
        classname=_class(night, job),
        seconds=job.build_seconds + job.board_seconds,
        status=_STATES[job.state],
        message=message,
        type=job.state.value,
        text="\n".join([message, *faults]),
    )


def _case(night: Night, job: JobResult, finding: Finding) -> Case:
    words = f"{change_of(finding)}: {step_of(job, finding)}"
    if finding.outcome is Outcome.CANNOT_TELL:
        words = f"cannot tell: {'; '.join(finding.because) or words}"
    return Case(
        name=f"{finding.metric.words} against its {finding.against}",
        classname=_class(night, job),
        seconds=0.0,
        status=_OUTCOMES[finding.outcome],
        message=words,
        type=finding.outcome.value,
        text="\n".join([words, *_evidence(finding)]),
    )


def _evidence(finding: Finding) -> Iterator[str]:
    yield f"how: {finding.how}; less than {finding.at_least:g} {finding.metric.change_unit} is nobody's concern"
    yield from finding.because
    yield f"since: {finding.since or 'not known'}, last good: {finding.last_good or 'not known'}"
    yield from (f"changed: {line}" for line in finding.changed or ("nothing that is known",))
    yield from (f"see it again: {command}" for command in finding.reproduce)


def _class(night: Night, job: JobResult) -> str:
    return f"{night.suite}.{job.job}"
