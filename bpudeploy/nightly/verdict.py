"""The verdict on a job, against baseline and history: the first bad night, what changed, how to see it again."""

from __future__ import annotations

from collections.abc import Sequence

from bpudeploy.nightly.changed import changed, reproduce
from bpudeploy.nightly.history import against_history, histories, nights_of
from bpudeploy.nightly.judge import Held, against_baseline, paired
from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import Against, Finding, JobResult, JobState, Night, Outcome
from bpudeploy.nightly.words import clock
from bpudeploy.nightly.work import JobRelease
from bpudeploy.results.measurement import Measurement
from bpudeploy.results.store import Query, Results


def judged(
    result: JobResult, release: JobRelease, held: Sequence[Held], results: Results, nights: Sequence[Night]
) -> JobResult:
    """Return a job's result with all that its measurement decides.

    Args:
        held: the looks of tonight, which are in ``results`` already.
        nights: of the past, the latest first.
    """
    m = held[-1].measured
    found = results.find(
        Query(
            recipe=m.subject.recipe,
            target=m.subject.target,
            provenance=m.provenance,
            with_samples=False,
        )
    )
    suite = str(m.night).partition("/")[0]
    pinned = release.baseline.pinned if release.baseline is not None else None
    of_suite = nights_of(found, suite)
    of_history = [
        against_history(one, pinned, release.recipe)
        for one in histories(result.job, of_suite, release.checks)
        if one.measured[-1].session == m.session  # else tonight has no such figure
    ]
    paired_with_before = _top1(release, m, of_suite, results)
    if paired_with_before is not None:
        of_history = [paired_with_before if _is_weaker(one) else one for one in of_history]
    of_baseline = [
        _explained(finding, release, m, found, nights, result.job)
        for finding in against_baseline(held, release.baseline, release.checks)
    ]
    known = {
        "state": JobState.MEASURED,
        "board_id": m.board_id,
        "session": m.session,
        "provenance": m.provenance,
        "figures": {metric: value for metric in Metric if (value := metric.of(m)) is not None},
        "p50_ms": m.latency.p50_ms if m.latency is not None and Metric.P50.of(m) is not None else None,
        "caveats": m.caveats,
        "findings": (*of_baseline, *of_history),
    }
    return result.model_copy(update=known)


def _is_weaker(finding: Finding) -> bool:
    return finding.metric is Metric.TOP1 and finding.outcome is not Outcome.REGRESSION


def _top1(release: JobRelease, now: Measurement, nights: Sequence[Measurement], results: Results) -> Finding | None:
    """Hold tonight's answers against those of the release before, image by image: that needs no row of nights.

    None where there is none before, it answered to other images, or tonight's release is the pinned one.
    """
    at_least = Metric.TOP1.at_least(release.checks)
    if at_least is None or (release.baseline is not None and release.baseline.release == now.subject.release):
        return None
    place = next((i for i, m in enumerate(nights) if m.subject.release == now.subject.release), len(nights))
    if place == 0:
        return None
    good, bad = nights[place - 1], nights[place] if place < len(nights) else now
    answers = next((m.answers for m in results.find(Query(session=good.session)) if m.night is not None), None)
    if answers is None or now.answers is None or answers.samples != now.answers.samples:
        return None
    whose = f"the release of the night before, of {clock(good.made)}"
    found = paired(answers.right, now.answers.right, at_least, Against.HISTORY, whose)
    if found.outcome is not Outcome.REGRESSION:
        return found
    return found.model_copy(
        update={
            "since": bad.made,
            "last_good": good.made,
            "changed": changed(good, now),
            "reproduce": reproduce(good, now, release.recipe),
        }
    )


def _explained(
    finding: Finding,
    release: JobRelease,
    now: Measurement,
    found: Sequence[Measurement],
    nights: Sequence[Night],
    job: str,
) -> Finding:
    """Add to a regression since when it is there, what changed since the pinned release, and how to see it."""
    baseline = release.baseline
    if finding.outcome is not Outcome.REGRESSION or baseline is None:
        return finding
    pinned = next((m for m in found if m.subject.release == baseline.release and m.session != now.session), None)
    pinned = pinned or next((m for m in found if m.subject.release == baseline.release), None)
    since, last_good = since_when(finding.metric, nights, job)
    return finding.model_copy(
        update={
            "since": since or now.made,
            "last_good": last_good,
            "changed": changed(pinned, now) if pinned is not None else (),
            "reproduce": reproduce(pinned, now, release.recipe) if pinned is not None else (),
        }
    )


def since_when(metric: Metric, nights: Sequence[Night], job: str) -> tuple[str | None, str | None]:
    """Return when the nights up to now began that said regression, and the last night before that said otherwise."""
    first = None
    for night in nights:
        one = next((one for one in night.jobs if one.job == job), None)
        if one is None or one.state is not JobState.MEASURED:
            continue
        told = next((f for f in one.findings if f.metric is metric and f.against is Against.BASELINE), None)
        if told is not None and told.outcome is Outcome.CANNOT_TELL:
            continue
        if told is None or told.outcome is not Outcome.REGRESSION:
            return first, night.began
        first = told.since or night.began
    return first, None
