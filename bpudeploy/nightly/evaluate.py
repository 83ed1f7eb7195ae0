"""Evaluate a measured job against its baseline and history: first bad night, what changed, how to reproduce it."""

from __future__ import annotations

from collections.abc import Sequence

from bpudeploy.nightly.baseline_findings import JobMeasurement, accuracy_finding, baseline_findings
from bpudeploy.nightly.differences import with_evidence
from bpudeploy.nightly.formatting import format_time
from bpudeploy.nightly.history import history_finding, metric_histories, suite_measurements
from bpudeploy.nightly.measure_job import JobRelease
from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import FindingOutcome, JobResult, JobState, MetricFinding, Night, Reference
from bpudeploy.results.measurement import Measurement
from bpudeploy.results.store import Query, Results


def evaluate(
    result: JobResult,
    release: JobRelease,
    measured: Sequence[JobMeasurement],
    results: Results,
    nights: Sequence[Night],
) -> JobResult:
    """Return a job's result with the figures and findings of its measurements.

    Args:
        measured: tonight's measurements, which are already in ``results``.
        nights: earlier nights, newest first.
    """
    m = measured[-1].measurement
    found = results.find(
        Query(recipe=m.subject.recipe, target=m.subject.target, provenance=m.provenance, with_samples=False)
    )
    pinned = release.baseline.pinned if release.baseline is not None else None
    of_suite = suite_measurements(found, str(m.night).partition("/")[0])
    of_history = [
        history_finding(one, pinned, release.recipe)
        for one in metric_histories(result.job, of_suite, release.checks)
        if one.measured[-1].session == m.session  # otherwise tonight did not measure the metric
    ]
    paired = _paired_with_previous(release, m, of_suite, results)
    if paired is not None:
        of_history = [
            paired if f.metric is Metric.TOP1 and f.outcome is not FindingOutcome.REGRESSION else f for f in of_history
        ]
    of_baseline = [
        _with_origin(finding, release, m, found, nights, result.job)
        if finding.outcome is FindingOutcome.REGRESSION
        else finding
        for finding in baseline_findings(measured, release.baseline, release.checks)
    ]
    update = {
        "state": JobState.MEASURED,
        "board_id": m.board_id,
        "session": m.session,
        "provenance": m.provenance,
        "figures": {metric: value for metric in Metric if (value := metric.value_in(m)) is not None},
        "p50_ms": m.latency.p50_ms if m.latency is not None and Metric.P50.value_in(m) is not None else None,
        "caveats": m.caveats,
        "findings": (*of_baseline, *of_history),
    }
    return result.model_copy(update=update)


def _paired_with_previous(
    release: JobRelease, now: Measurement, nights: Sequence[Measurement], results: Results
) -> MetricFinding | None:
    """Compare tonight's answers image by image with those of the previous release, which needs no series of nights.

    None if there is no previous release, it was evaluated on other images, or tonight's release is the pinned one.
    """
    at_least = Metric.TOP1.threshold(release.checks)
    if at_least is None or (release.baseline is not None and release.baseline.release == now.subject.release):
        return None
    first = next((i for i, m in enumerate(nights) if m.subject.release == now.subject.release), len(nights))
    if first == 0:
        return None
    good, bad = nights[first - 1], nights[first] if first < len(nights) else now
    answers = next((m.answers for m in results.find(Query(session=good.session)) if m.night is not None), None)
    if answers is None or now.answers is None or answers.samples != now.answers.samples:
        return None
    whose = f"the previous release, of {format_time(good.made)}"
    found = accuracy_finding(answers.right, now.answers.right, at_least, Reference.HISTORY, whose)
    if found.outcome is not FindingOutcome.REGRESSION:
        return found
    return with_evidence(found, good, now, release.recipe, since=bad.made, last_good=good.made)


def _with_origin(
    finding: MetricFinding,
    release: JobRelease,
    now: Measurement,
    found: Sequence[Measurement],
    nights: Sequence[Night],
    job: str,
) -> MetricFinding:
    """Add to a regression when it began, what changed since the pinned release, and how to reproduce it."""
    assert release.baseline is not None  # what it was compared with
    of_pinned = [m for m in found if m.subject.release == release.baseline.release]
    pinned = next((m for m in of_pinned if m.session != now.session), of_pinned[0] if of_pinned else None)
    since, last_good = first_bad_night(finding.metric, nights, job)
    return with_evidence(finding, pinned, now, release.recipe, since=since or now.made, last_good=last_good)


def first_bad_night(metric: Metric, nights: Sequence[Night], job: str) -> tuple[str | None, str | None]:
    """Return when the current regression against the baseline began, and the last night before it without one."""
    first = None
    for night in nights:
        result = night.result(job)
        if result is None or result.state is not JobState.MEASURED:
            continue
        found = next((f for f in result.findings if f.metric is metric and f.against is Reference.BASELINE), None)
        if found is not None and found.outcome is FindingOutcome.CANNOT_TELL:
            continue
        if found is None or found.outcome is not FindingOutcome.REGRESSION:
            return first, night.began
        first = found.since or night.began
    return first, None
